"""What files were when a stage ended, and which of them are no longer as they were."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple, Optional

from components.checksums import sum_file
from components.features import is_shard


class FileState(NamedTuple):
    """A file's bytes and their sum; None of a shard, whose sums its reader compares, so that no run reads all data.

    None for both means that a later stage completes the file: it must be there.
    """

    size: Optional[int]
    crc32c: Optional[int]


class Differences(NamedTuple):
    """The files that are gone, and those that are not as they were."""

    missing: list[Path]
    damaged: list[Path]


def examine_files(files: Iterable[Path], root: Path, unfinished: Collection[str] = ()) -> dict[str, FileState]:
    """Return the state of files, some of these names unfinished, by their paths below a root."""
    return {
        file.relative_to(root).as_posix(): FileState(None, None) if file.name in unfinished else _examine(file)
        for file in files
    }


def _examine(file: Path) -> FileState:
    return FileState(file.stat().st_size, None if is_shard(file.name) else sum_file(file))


def compare_files(states: Mapping[str, FileState], root: Path) -> Differences:
    """Return how the files below a root differ from their states."""
    found = Differences([], [])
    for name, state in states.items():
        file = root / name
        if not file.is_file():
            found.missing.append(file)
        elif state.size not in (None, file.stat().st_size) or state.crc32c not in (None, sum_file(file)):
            found.damaged.append(file)
    return found
