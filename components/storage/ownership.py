"""The mark in a folder that lists the files that Topgraft wrote there; no other file is replaced or removed."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from components.errors import UserError
from components.storage.files import PARTIAL, append_suffix, replacing_file
from components.storage.places import (
    is_remote,
    list_files,
    make_folder,
    move_file,
    plain_folder,
    remove,
    remove_empty_folders,
    remove_file,
    upload,
)

# Names with this prefix belong to Topgraft in any folder.
OWN_PREFIX = ".topgraft"
MARK = f"{OWN_PREFIX}.json"


def read_mark(folder: Path) -> set[str]:
    """Return the paths, relative to a folder, of the files that Topgraft wrote there; empty without a mark.

    Raises UserError for a damaged mark, and OSError for one that cannot be read.
    """
    try:
        names = json.loads((folder / MARK).read_text(encoding="utf-8"))["files"]
    except FileNotFoundError:
        return set()
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"The file '{folder / MARK}', which lists the files that Topgraft wrote to its folder, is damaged: move "
            f"the folder '{folder}' away and run again."
        ) from error
    return set(names)


def write_mark(folder: Path, names: Iterable[str]) -> None:
    """Write the mark of a folder atomically."""
    with replacing_file(folder / MARK) as partial:
        partial.write_text(json.dumps({"written by": "topgraft", "files": sorted(names)}) + "\n", encoding="utf-8")


def claim_files(folder: Path, names: Collection[str]) -> None:
    """Add names to the mark of a folder before these files are written.

    Raises UserError if a file with such a name exists that Topgraft did not write.
    """
    written = read_mark(folder)
    new = {*names} - written
    if new:
        _refuse_foreign(folder, new & list_files(folder).keys())
        make_folder(folder)
        write_mark(folder, written | new)


def list_written(folder: Path) -> list[str]:
    """Return the sorted names of the files of a folder that Topgraft wrote and that still exist."""
    return sorted(read_mark(folder) & list_files(folder).keys())


def remove_written(folder: Path, keep: Collection[str] = ()) -> None:
    """Remove the files of a folder that Topgraft wrote, except those to keep, and then empty folders."""
    written = read_mark(folder)
    for name in sorted(written.difference(keep)):
        remove_file(folder / name)
    kept = written.intersection(keep)
    if kept:
        write_mark(folder, kept)
    else:
        remove_file(folder / MARK)
        remove_empty_folders(folder)


@contextmanager
def replacing_folder(path: Path, last: str = "") -> Iterator[Path]:
    """Yield a new local folder whose files replace those that Topgraft wrote to `path`, removed after an exception.

    Files of others in `path` stay. The folder always has the same name: if several processes may write, the caller
    holds `locked`. A remote place gets its files one by one, and the file named last only when all others exist. Raises
    UserError if a new file has the name of a file of others.
    """
    if is_remote(path):
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
            new = {*list_files(Path(folder))}
            _refuse_foreign(path, new & (list_files(path).keys() - read_mark(path)))
            remove_written(path)
            write_mark(path, new)
            upload(Path(folder), path, last)
        return
    with replacing_shared_folder(path) as partial:
        yield partial


@contextmanager
def replacing_shared_folder(path: Path) -> Iterator[Path]:
    """Yield a folder as replacing_folder does, but always beside `path`, where Beam's workers reach it."""
    partial = append_suffix(path, PARTIAL)
    remove(partial)
    make_folder(partial)
    try:
        with plain_folder(partial) as plain:
            yield plain
        _replace_written(partial, path)
    finally:
        remove(partial)


def _replace_written(partial: Path, folder: Path) -> None:
    new, written = {*list_files(partial)}, read_mark(folder)
    foreign = list_files(folder).keys() - written
    _refuse_foreign(folder, new & foreign)
    if not foreign - {MARK}:
        remove_written(folder)
        if not folder.exists() and not is_remote(folder):  # without files of others the folder appears as a whole
            write_mark(partial, new)
            os.replace(partial, folder)
            return
    # The mark comes first: after a failure the next run knows the files that have been moved.
    write_mark(folder, written | new)
    for name in new:
        move_file(partial / name, folder / name)
    for name in written - new:
        remove_file(folder / name)
    write_mark(folder, new)


def _refuse_foreign(folder: Path, names: Collection[str]) -> None:
    if names:
        raise UserError(
            f"Cannot write '{folder / min(names)}': a file exists there that Topgraft did not write, so move it away "
            f"or set another output_dir."
        )
