"""The index of a shard: its listed files, the facts read from each, and the split of its record."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from components.data.image_file import ImageFile
from components.data.image_list import ImageList
from components.errors import DamagedFile
from components.images.formats import Limits
from components.rejects import UNREADABLE
from components.shards.facts import FactColumns, Facts
from components.shards.names import Shard, index_name, is_index, parse_shard, shard_names
from components.shards.spans import RowGroups, choose_places, list_shards
from components.storage.files import read_json, write_text
from components.storage.ownership import list_written
from components.storage.places import Status

# Increased when a new version gets other facts or another record from the same file, so that files are read again.
READING = 2


class Row(NamedTuple):
    """A listed file, its facts (None until it is read), and split ('' for none) and label of its record."""

    file: ImageFile
    facts: Facts | None = None
    split: str = ""
    label: int = 0


def encode_text(text: str) -> bytes:
    """Return the bytes of a path or name in the file system."""
    return text.encode("utf-8", "surrogateescape")


def write_index(path: Path, rows: list[Row], limits: Limits, sizes: list[int]) -> None:
    """Write rows, the limits under which they were read, and the sizes in bytes of the shard's files."""
    write_text(path, json.dumps({"limits": [*_limits(limits)], "sizes": sizes, "rows": rows}))


def read_index(path: Path, limits: Limits | None = None) -> tuple[list[Row], list[int]]:
    """Return rows and sizes; if the index was written under other limits, rows without facts and no sizes.

    Raises FileNotFoundError for a missing index, DamagedFile for a damaged one, and an error of the storage for one
    that cannot be read.
    """
    content = read_json(path, "limits", "sizes", "rows")
    try:
        rows = [_row(*row) for row in content["rows"]]
        if limits and content["limits"] != [*_limits(limits)]:
            return [row._replace(facts=None) for row in rows], []
        return rows, content["sizes"]
    except TypeError as error:
        raise DamagedFile(str(path)) from error


def read_known(
    folder: Path, files: ImageList, positions: np.ndarray, spans: Sequence[int], limits: Limits
) -> tuple[FactColumns, np.ndarray]:
    """Return the facts of files from earlier runs, and int32[N], the shards of their records among those of the spans.

    positions are those of hash_key. A file is unchanged if key, size, time of change and offset in a TFRecord file are
    the same; the key alone decides the shard, -1 without a record in these spans. A file that could not be read has no
    facts. Raises DamagedFile for a damaged index.
    """
    facts, places = FactColumns(len(files)), np.full(len(files), -1, np.int32)
    kept = {index_name(shard): place for place, shard in enumerate(list_shards(spans))}
    groups: dict[int, RowGroups] = {}
    for name in list_written(folder):
        shard = parse_shard(name) if is_index(name) else None
        if not shard:
            continue
        if shard.of not in groups:
            groups[shard.of] = RowGroups.of(choose_places(positions, shard.of), shard.of)
        rows = groups[shard.of].find(shard.number)
        wanted = {file.key: (row, file) for row, file in zip(rows.tolist(), files.read(rows), strict=True)}
        for before in read_index(folder / name, limits)[0]:
            row, file = wanted.get(before.file.key, (-1, None))
            if file is None:
                continue
            places[row] = kept.get(name, places[row])
            # Without a time of change, a file can have changed.
            same = before.file.modified_ns and file_stamp(before.file) == file_stamp(file)
            if same and before.facts is not None and before.facts.reason != UNREADABLE:
                try:
                    facts[row] = before.facts
                except ValueError as error:  # of a checksum
                    raise DamagedFile(str(folder / name)) from error
    return facts, places


def file_stamp(file: ImageFile) -> tuple[str, int, int, int]:
    """Return the values that identify a file and its version without reading it."""
    return file.key, file.size, file.modified_ns, file.offset


def measure_shard(folder: Path, shard: Shard) -> list[int]:
    """Return the sizes in bytes of the files of one shard, [] if one is missing."""
    files = [folder / name for name in shard_names(shard)]
    return [file.stat().st_size for file in files] if all(file.exists() for file in files) else []


def plan_shard(folder: Path, shard: Shard, rows: list[Row], limits: Limits, present: Mapping[str, Status]) -> bool:
    """Write the index of a shard if it differs from rows, sorted by key; return whether its files must be written.

    present are the files in the folder. If the files must be written, the index is their plan: each row has the split
    for its record, and there are no sizes.
    """
    index = folder / index_name(shard)
    former, sizes = read_index(index, limits) if index.name in present else ([], [])
    written = bool(sizes) and sizes == [present[name].size for name in shard_names(shard) if name in present]
    written = written and all(row.facts for row in rows) and _list_records(rows) == _list_records(former)
    if not written or rows != former:
        write_index(index, rows, limits, sizes if written else [])
    return not written


def _list_records(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """Return the values that decide the records of rows."""
    return [
        (row.file.key, row.file.text, row.file.source, str(row.label), row.split, row.facts.sha256 if row.facts else "")
        for row in rows
        if row.split
    ]


def _limits(limits: Limits) -> Iterator[int]:
    yield from (limits.max_bytes, limits.max_pixels, READING)


def _row(file: list, facts: list | None, split: str, label: int) -> Row:
    return Row(ImageFile(*file), _facts(*facts) if facts else None, sys.intern(split), label)


def _facts(reason: str, detail: str, sha256: str, image_format: str, *numbers: int) -> Facts:
    return Facts(reason, detail, sha256, sys.intern(image_format), *numbers)
