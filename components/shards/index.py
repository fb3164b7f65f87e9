"""The index of a shard: the files listed for it, what reading each told, and the split in which its record lies."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from components.data.image_file import ImageFile
from components.errors import DamagedFile
from components.features import SPLITS
from components.images.formats import Limits
from components.rejects import UNREADABLE
from components.shards.names import Shard, index_name, is_index, shard_name
from components.shards.spans import list_shards
from components.storage.files import read_json, write_text
from components.storage.ownership import list_written
from components.storage.places import Status

# Raised whenever the same file gives other facts or another record than before, so that it is read again.
READING = 2


class Facts(NamedTuple):
    """What reading a file told: why it is no usable image ('' if it is one), else its sum, format, pixels and turn, and
    1 if all its pixels have one colour."""

    reason: str
    detail: str
    sha256: str = ""
    format: str = ""
    height: int = 0
    width: int = 0
    orientation: int = 1
    uniform: int = 0


class Row(NamedTuple):
    """A listed file; split ('' for none) and label are those of its record; facts are missing until it is read."""

    file: ImageFile
    facts: Facts | None = None
    split: str = ""
    label: int = 0


class Known(NamedTuple):
    """What is known of an image before it is read: its facts, where the file has not changed, and where it lies."""

    facts: Facts | None = None
    place: Shard | None = None


def encode_text(text: str) -> bytes:
    """Return the bytes of a path or name as the file system has them."""
    return text.encode("utf-8", "surrogateescape")


def write_index(path: Path, rows: list[Row], limits: Limits, sizes: list[int]) -> None:
    """Write rows with the limits under which they were read and the sizes in bytes of the shard's files."""
    write_text(path, json.dumps({"limits": [*_limits(limits)], "sizes": sizes, "rows": rows}))


def read_index(path: Path, limits: Limits | None = None) -> tuple[list[Row], list[int]]:
    """Return rows and sizes, but no facts and sizes of an index written under other limits.

    Raises FileNotFoundError for a missing index, DamagedFile for one that is not as it was written, and whatever the
    storage raises for one that cannot be read: only the first of these means that nothing is there.
    """
    content = read_json(path, "limits", "sizes", "rows")
    try:
        rows = [_row(*row) for row in content["rows"]]
        if limits and content["limits"] != [*_limits(limits)]:
            return [row._replace(facts=None) for row in rows], []
        return rows, content["sizes"]
    except TypeError as error:
        raise DamagedFile(str(path)) from error


def read_known(folder: Path, files: Sequence[ImageFile], spans: Sequence[int], limits: Limits) -> list[Known]:
    """Return what earlier runs learnt of each file, and in which shard of these spans its record lies.

    A file is the same by its key, size, time of change and place in a TFRecord file; it stays where it is by its key.
    One that could not be read is read again. Raises DamagedFile for a damaged index.
    """
    wanted = {file.key: number for number, file in enumerate(files)}
    found = [Known()] * len(files)
    kept = {index_name(shard): shard for shard in list_shards(spans)}
    for name in (name for name in list_written(folder) if is_index(name)):
        place = kept.get(name)
        for row in read_index(folder / name, limits)[0]:
            number = wanted.get(row.file.key)
            if number is not None:
                # Of a file without a time nobody can tell whether it has changed.
                same = row.file.modified_ns and file_stamp(row.file) == file_stamp(files[number])
                readable = row.facts is not None and row.facts.reason != UNREADABLE
                before = found[number]
                found[number] = Known(row.facts if same and readable else before.facts, place or before.place)
    return found


def file_stamp(file: ImageFile) -> tuple[str, int, int, int]:
    """Return what tells a file from another, or from itself after a change, without reading it."""
    return file.key, file.size, file.modified_ns, file.offset


def measure_shard(folder: Path, shard: Shard) -> list[int]:
    """Return the sizes in bytes of the files of one shard; [] where one is missing."""
    files = [folder / shard_name(split, shard) for split in SPLITS]
    return [file.stat().st_size for file in files] if all(file.exists() for file in files) else []


def plan_shard(folder: Path, shard: Shard, rows: list[Row], limits: Limits, there: Mapping[str, Status]) -> bool:
    """Bring the index of a shard into line with rows in order of key; tell whether its files have to be written.

    there are the files of the folder. If they have to, the index is their plan: each row has the split in which its
    record is to lie, and no sizes vouch for files.
    """
    index = folder / index_name(shard)
    lying, sizes = read_index(index, limits) if index.name in there else ([], [])
    names = [shard_name(split, shard) for split in SPLITS]
    written = bool(sizes) and sizes == [there[name].size for name in names if name in there]
    written = written and all(row.facts for row in rows) and _list_records(rows) == _list_records(lying)
    if not written or rows != lying:
        write_index(index, rows, limits, sizes if written else [])
    return not written


def _list_records(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """Return all that the records of rows depend on."""
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
