"""Predict as a Beam job: shards of consecutive files, each classified and written by a worker, then joined in order."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.options.pipeline_options import PipelineOptions

from components.errors import UserError
from components.predict.outputs import WRITERS, check_output
from components.predict.predict import BATCH_SIZE, Answer, Unreadable, load_export, predict_files
from components.storage.files import PARTIAL, append_suffix, replacing_file, write_json
from components.storage.places import make_folder, remove
from components.terminal.text import printable

FORMATS = (".csv", ".jsonl")
# By default 1024 images a shard: what a worker repeats when it fails.
SHARD_BATCHES = 32

NAMES, UNREADABLE = "names.jsonl", "unreadable"


class Shard(NamedTuple):
    """Consecutive files: the first one's number in the input, where its name stands in the list, how many there are."""

    first: int
    offset: int
    images: int

    @property
    def stem(self) -> str:
        return f"{self.first:012d}"


def predict_by_beam(
    export: Path, files: Iterable[str], output: Path | None, top_k: int, shards: int | None, options: PipelineOptions
) -> dict[str, int]:
    """Classify files into a .csv or .jsonl file, the very one that write_predictions writes; return the same counts.

    Workers read the images, the export and a folder beside the output by the same paths. Raises UserError for an output
    of another kind and for an export that cannot be used.
    """
    if output is None or output.suffix not in FORMATS:
        found = f"'{output}'" if output else "the terminal"
        raise UserError(f"A Beam job cannot write to {found}: set --output to a name that ends in .csv or .jsonl.")
    check_output(output)
    load_export(export)  # an export that cannot be used is refused here, not by a worker
    with _work_folder(output) as folder:
        listed = list_shards(files, folder / NAMES, shards)
        with beam.Pipeline(options=options) as pipeline:
            # Names of files, which need not be Unicode, go by files too: Beam takes no text that is not.
            _ = (
                pipeline
                | "List shards" >> beam.Create(listed)
                | "Spread shards" >> beam.Reshuffle()
                | "Predict" >> beam.ParDo(PredictShard(export, folder, output.suffix, top_k))
            )
        unreadable = 0
        for shard in listed:
            for path, reason in json.loads((folder / f"{shard.stem}.{UNREADABLE}").read_text(encoding="utf-8")):
                print(printable(f"{path}: {reason}"), file=sys.stderr)
                unreadable += 1
        join_shards([folder / f"{shard.stem}{output.suffix}" for shard in listed], output)
    predicted = sum(shard.images for shard in listed) - unreadable
    print(f"{predicted} predicted, {unreadable} unreadable", file=sys.stderr)
    return {"predicted": predicted, "unreadable": unreadable}


@contextmanager
def _work_folder(output: Path) -> Iterator[Path]:
    folder = append_suffix(output.absolute(), f".{uuid4().hex}.shards{PARTIAL}")
    make_folder(folder)
    try:
        yield folder
    finally:
        remove(folder)


def list_shards(files: Iterable[str], names: Path, shards: int | None) -> list[Shard]:
    """Write the files' names to a list of json lines and divide it into shards, by default of SHARD_BATCHES batches.

    A shard is whole batches: what a model makes of an image may differ in the last digit with what is beside it.
    """
    offsets, count, rows = [], 0, iter(files)
    with replacing_file(names) as partial, open(partial, "w", encoding="ascii") as file:
        while batch := list(islice(rows, BATCH_SIZE)):
            offsets.append(file.tell())
            file.writelines(f"{json.dumps(path)}\n" for path in batch)
            count += len(batch)
    step = math.ceil(len(offsets) / shards) if shards else SHARD_BATCHES
    firsts = range(0, len(offsets), step)
    size = step * BATCH_SIZE
    return [Shard(first * BATCH_SIZE, offsets[first], min(size, count - first * BATCH_SIZE)) for first in firsts]


class PredictShard(beam.DoFn):
    """Writes the predictions of a shard to a file, and a list of its unreadable files to another."""

    def __init__(self, export: Path, folder: Path, suffix: str, top_k: int):
        self._export = export.absolute()
        self._folder = folder
        self._suffix = suffix
        self._top_k = top_k

    def setup(self) -> None:
        self._classifier = load_export(self._export)

    def process(self, shard: Shard) -> Iterator[Any]:
        unreadable: list[Unreadable] = []

        def outcomes() -> Iterator[tuple[str, Answer | Unreadable]]:
            with (self._folder / NAMES).open(encoding="ascii") as file:
                file.seek(shard.offset)
                names = map(json.loads, islice(file, shard.images))
                for path, outcome in predict_files(self._classifier.compute, names):
                    if isinstance(outcome, Unreadable):
                        unreadable.append(outcome)
                    Metrics.counter("predict", UNREADABLE if isinstance(outcome, Unreadable) else "predicted").inc()
                    yield path, outcome

        WRITERS[self._suffix](self._folder / f"{shard.stem}{self._suffix}", outcomes(), self._classifier, self._top_k)
        write_json(self._folder / f"{shard.stem}.{UNREADABLE}", unreadable)
        yield from ()


def join_shards(shards: Iterable[Path], output: Path) -> None:
    """Write files one behind the other in one step; of csv files the header of the first alone."""
    with replacing_file(output) as partial, open(partial, "wb") as joined:
        for number, shard in enumerate(shards):
            with shard.open("rb") as file:
                if number and output.suffix == ".csv":
                    file.readline()
                shutil.copyfileobj(file, joined)
