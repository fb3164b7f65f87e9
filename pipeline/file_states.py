"""What files were when a stage ended, and which of them are no longer as they were."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from components.shards.names import is_shard
from components.storage.ownership import read_mark
from components.storage.places import Status, is_remote, list_files, read_status


class FileState(NamedTuple):
    """A file's bytes and its time of change in ns, of a remote object its generation.

    A shard has no time: its reader compares the checksums that it holds.
    """

    size: int | None
    changed: int | None


# Of a file that a later stage completes: it must be there.
UNFINISHED = FileState(None, None)


class Differences(NamedTuple):
    """The files that are gone, and those that are not as they were."""

    missing: list[Path]
    changed: list[Path]


def examine_files(places: Iterable[Path], root: Path, unfinished: Collection[str] = ()) -> dict[str, FileState]:
    """Return the state of the files that Topgraft wrote to places, some of these names unfinished, by their paths below
    a root."""
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
    """Return how the files below a root differ from their states."""
    found = Differences([], [])
    lying = _measure_files(states, root)
    for name, state in states.items():
        if name not in lying:
            found.missing.append(root / name)
        elif state not in (UNFINISHED, _state(name, lying[name])):
            found.changed.append(root / name)
    return found


def _measure_files(names: Iterable[str], root: Path) -> dict[str, Status]:
    if not is_remote(root):
        return {name: read_status(root / name) for name in names if (root / name).is_file()}
    # A listing a folder, not a request a file.
    folders = {name.partition("/")[0] for name in names}
    return {f"{top}/{name}": status for top in folders for name, status in list_files(root / top).items()}
