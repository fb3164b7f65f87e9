"""Record the state of files at the end of a stage, and find later changes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from components.shards.names import is_shard
from components.storage.ownership import read_mark
from components.storage.places import Status, is_remote, list_files, read_status


class FileState(NamedTuple):
    """A file's size in bytes and its time of change in ns, or the generation of a remote object.

    A shard has no time, as its reader checks its checksums.
    """

    size: int | None
    changed: int | None


# A file that a later stage completes: it must exist with any content.
UNFINISHED = FileState(None, None)


class Differences(NamedTuple):
    """The files that are missing, and those that have changed."""

    missing: list[Path]
    changed: list[Path]


def examine_files(places: Iterable[Path], root: Path, unfinished: Collection[str] = ()) -> dict[str, FileState]:
    """Return the states of the files that Topgraft wrote to places, by path below root; unfinished holds file names."""
    files: dict[str, Status] = {}
    for place in places:
        below = "/".join(place.parts[len(root.parts) :])
        if place.is_dir():
            written = read_mark(place)
            files |= {f"{below}/{name}": status for name, status in list_files(place).items() if name in written}
        else:
            files[below] = read_status(place)
    return {
        name: UNFINISHED if Path(name).name in unfinished else _state(name, status) for name, status in files.items()
    }


def _state(name: str, status: Status) -> FileState:
    return FileState(status.size, None if is_shard(Path(name).name) else status.changed)


def compare_files(states: Mapping[str, FileState], root: Path) -> Differences:
    """Return the files below root that differ from their states."""
    present = _measure_files(states, root)
    missing = [name for name in states if name not in present]
    changed = [n for n, state in states.items() if n in present and state not in (UNFINISHED, _state(n, present[n]))]
    return Differences([root / name for name in missing], [root / name for name in changed])


def _measure_files(names: Iterable[str], root: Path) -> dict[str, Status]:
    if not is_remote(root):
        return {name: read_status(root / name) for name in names if (root / name).is_file()}
    # One listing per folder instead of one request per file.
    folders = {name.partition("/")[0] for name in names}
    return {f"{top}/{name}": status for top in folders for name, status in list_files(root / top).items()}
