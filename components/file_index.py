"""The index of a shard: the files listed for it, what reading each told, and the split in which its record lies."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from components.checksums import read_summed_json, write_summed_json
from components.errors import DamagedFile
from components.features import SPLITS, index_name, shard_name
from components.image_headers import Limits
from components.listing import ImageFile


class Facts(NamedTuple):
    """What reading a file told: why it is no usable image ('' if it is one), else its sum, format, pixels and turn."""

    reason: str
    detail: str
    sha256: str = ""
    format: str = ""
    height: int = 0
    width: int = 0
    orientation: int = 1


class Row(NamedTuple):
    """A listed file; split ('' for none) and label are those of its record; facts are missing until it is read."""

    file: ImageFile
    facts: Facts | None = None
    split: str = ""
    label: int = 0


def encode_text(text: str) -> bytes:
    """Return the bytes of a path or name as the file system has them."""
    return text.encode("utf-8", "surrogateescape")


def write_index(path: Path, rows: list[Row], limits: Limits, sizes: list[int]) -> None:
    """Write rows with the limits under which they were read and the sizes in bytes of the shard's files."""
    write_summed_json(path, {"limits": [*_limits(limits)], "sizes": sizes, "rows": rows})


def read_index(path: Path, limits: Limits) -> tuple[list[Row], list[int]]:
    """Return rows and sizes, nothing of a file that is missing, damaged or was written under other limits."""
    try:
        content = read_summed_json(path)
        if content["limits"] != [*_limits(limits)]:
            return [], []
        return [_row(*row) for row in content["rows"]], content["sizes"]
    except (OSError, DamagedFile, KeyError, TypeError):
        return [], []


def read_facts(folder: Path, limits: Limits) -> dict[tuple[str, int, int, int], Facts]:
    """Return what earlier runs learnt of files, by key, size, time of change and place in its file."""
    known = {}
    for path in folder.glob("files-*.json"):
        for row in read_index(path, limits)[0]:
            if row.facts and row.file.modified_ns:  # of a file without a time nobody can tell whether it has changed
                known[file_stamp(row.file)] = row.facts
    return known


def file_stamp(file: ImageFile) -> tuple[str, int, int, int]:
    """Return what tells a file from another, or from itself after a change, without reading it."""
    return file.key, file.size, file.modified_ns, file.offset


def measure_shard(folder: Path, shard: int, shards: int) -> list[int]:
    """Return the sizes in bytes of the files of one shard number; [] where one is missing."""
    files = [folder / shard_name(split, shard, shards) for split in SPLITS]
    return [file.stat().st_size for file in files] if all(file.exists() for file in files) else []


def remove_other_shards(folder: Path, shards: int) -> None:
    """Remove example shards and indexes of any other number of shards."""
    wanted = {shard_name(split, shard, shards) for split in SPLITS for shard in range(shards)}
    wanted |= {index_name(shard, shards) for shard in range(shards)}
    for file in (*folder.glob("*.tfrecord"), *folder.glob("files-*.json")):
        if file.name not in wanted:
            file.unlink()


def _limits(limits: Limits) -> Iterator[int]:
    yield from (limits.max_bytes, limits.max_pixels)


def _row(file: list, facts: list | None, split: str, label: int) -> Row:
    return Row(ImageFile(*file), _facts(*facts) if facts else None, sys.intern(split), label)


def _facts(reason: str, detail: str, sha256: str, image_format: str, *numbers: int) -> Facts:
    return Facts(reason, detail, sha256, sys.intern(image_format), *numbers)
