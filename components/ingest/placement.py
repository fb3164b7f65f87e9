"""Placement: the shard of each listed file is that of an earlier run, or follows from the key of a new file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from components.data.columns import Words
from components.data.image_list import ImageList
from components.errors import DamagedFile
from components.images.formats import Limits
from components.run_dir import RunDir
from components.shards.facts import FactColumns
from components.shards.index import Row, encode_text, read_known
from components.shards.names import Shard
from components.shards.spans import (
    RowGroups,
    choose_places,
    choose_shards,
    hash_key,
    keeps_spans,
    list_shards,
    plan_spans,
)


@dataclass(frozen=True, eq=False)
class Planned:
    """The rows of all shards in columns, sorted by key."""

    files: ImageList
    facts: FactColumns
    spans: list[int]  # the number of shards of each span
    places: np.ndarray  # int32[N], the position of each shard in list_shards(spans)
    splits: Words
    labels: np.ndarray  # int32[N], the number of each class

    def find_kept(self) -> np.ndarray:
        """Return the rows of the images that have a split, int64[M]."""
        return np.flatnonzero(self.splits.codes != self.splits.find(""))

    def count_classes(self, split: str) -> dict[str, int]:
        """Return the images of each class in a split, without the classes that have none there."""
        rows = np.flatnonzero(self.splits.codes == self.splits.find(split))
        return self.files.texts.take(rows).count()

    def read(self, rows: np.ndarray) -> Iterator[Row]:
        """Yield some rows, int64[M], in their order."""
        columns = (self.files.read(rows), rows.tolist(), self.splits.decode(rows), self.labels[rows].tolist())
        for file, row, split, label in zip(*columns, strict=True):
            yield Row(file, self.facts[row], split, label)

    def read_shards(self) -> Iterator[tuple[Shard, np.ndarray, list[Row]]]:
        """Yield each shard with the numbers of its rows and the rows, sorted by the bytes of their keys."""
        shards = list_shards(self.spans)
        groups = RowGroups.of(self.places, len(shards))
        for place, shard in enumerate(shards):
            found = groups.find(place)
            pairs = sorted(
                zip(found.tolist(), self.read(found), strict=True), key=lambda pair: encode_text(pair[1].file.key)
            )
            yield shard, np.array([number for number, _ in pairs], np.int64), [row for _, row in pairs]


def find_differences(planned: Planned, written: Planned) -> np.ndarray:
    """Return the rows that differ in split, label or facts between two plans over the same files, int64[M]."""
    differs = (planned.splits.codes != written.splits.codes) | (planned.labels != written.labels)
    return np.flatnonzero(differs | planned.facts.find_changed(written.facts))


def place_files(files: ImageList, run: RunDir, shards: int | None, limits: Limits) -> tuple[Planned, bool]:
    """Return the rows of files in their shards, without splits, and whether the spans of an earlier run stay.

    If they stay, every file that has a record stays in its shard. Raises DamagedFile for a damaged index.
    """
    former = _read_spans(run)
    positions = np.fromiter(map(hash_key, files.read_keys()), np.float64, len(files))
    facts, places = read_known(run.examples, files, positions, former, limits)
    stay = keeps_spans(former, len(files), shards)
    if stay:
        first_of_newest = sum(former[:-1])
        spans = plan_spans(former, int((places >= first_of_newest).sum()), int((places < 0).sum()))
    else:
        spans = [shards or choose_shards(len(files))]
        places = np.full(len(files), -1, np.int32)
    new = choose_places(positions, spans[-1]) + np.int32(sum(spans[:-1]))
    places = np.where(places >= 0, places, new)
    count = len(files)
    return Planned(files, facts, spans, places, Words.repeat("", count), np.zeros(count, np.int32)), stay


def _read_spans(run: RunDir) -> list[int]:
    try:
        spans: list[int] = json.loads(run.spans.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except ValueError as error:
        raise DamagedFile(str(run.spans)) from error
    return spans
