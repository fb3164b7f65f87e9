"""Which files of a folder Topgraft wrote: a mark in the folder lists them, and no other file is replaced or removed."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from components.errors import UserError
from components.storage.files import PARTIAL, beside, replacing_file
from components.storage.places import (
    is_remote,
    list_files,
    make_folder,
    move_file,
    move_folder,
    plain_folder,
    remove,
    remove_empty_folders,
    remove_file,
    upload,
)

# Names that begin so are Topgraft's own, wherever they lie.
OWN_PREFIX = ".topgraft"
MARK = f"{OWN_PREFIX}.json"


def read_mark(folder: Path) -> set[str]:
    """Return the names, relative to a folder, of the files that Topgraft wrote there; none without a mark.

    Raises UserError for a damaged mark, and OSError for one that cannot be read.
    """
    try:
        names = json.loads((folder / MARK).read_text(encoding="utf-8"))["files"]
    except FileNotFoundError:
        return set()
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"The file '{folder / MARK}', which lists the files that Topgraft wrote to its folder, is damaged: move "
            f"the folder '{folder}' away and run again, which writes it anew."
        ) from error
    return set(names)


def write_mark(folder: Path, names: Iterable[str]) -> None:
    """Write the mark of a folder in one step."""
    with replacing_file(folder / MARK) as partial:
        partial.write_text(json.dumps({"written by": "topgraft", "files": sorted(names)}) + "\n", encoding="utf-8")


def claim_files(folder: Path, names: Collection[str]) -> None:
    """Add names to the mark of a folder before these files are written.

    Raises UserError where a file of such a name is there that Topgraft did not write.
    """
    written = read_mark(folder)
    new = {*names} - written
    if new:
        _refuse_foreign(folder, new & list_files(folder).keys())
        make_folder(folder)
        write_mark(folder, written | new)


def list_written(folder: Path) -> list[str]:
    """Return the names of the files of a folder that Topgraft wrote and that are still there, sorted."""
    return sorted(read_mark(folder) & list_files(folder).keys())


def remove_written(folder: Path, keep: Collection[str] = ()) -> None:
    """Remove the files of a folder that Topgraft wrote but those to keep, and the folders that are then empty."""
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
    """Yield a new empty local folder; when the block ends well its files take the place of those that Topgraft wrote to
    `path`, else it is removed. Files of others in `path` stay.

    Its name is always the same: where several processes may write, the caller holds `locked`. A remote place gets its
    files one by one; that named last, which must be there, tells that it has them all. Raises UserError where a file of
    another has the name of a new one.
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
    """Yield a folder as replacing_folder does, but beside `path`: where that is remote, Beam's workers reach both."""
    partial = beside(path, PARTIAL)
    remove(partial)
    make_folder(partial)
    try:
        with plain_folder(partial) as plain:
            yield plain
        _replace_written(partial, path)
    finally:
        remove(partial)


def _replace_written(partial: Path, folder: Path) -> None:
    new, lying, written = {*list_files(partial)}, {*list_files(folder)}, read_mark(folder)
    _refuse_foreign(folder, new & (lying - written))
    if not lying - written - {MARK}:
        remove_written(folder)
        if not folder.exists():  # nothing of others is there: the folder appears as a whole
            write_mark(partial, new)
            move_folder(partial, folder)
            return
    write_mark(folder, written | new)
    for name in new:
        move_file(partial / name, folder / name)
    for name in written - new:
        remove_file(folder / name)
    write_mark(folder, new)


def _refuse_foreign(folder: Path, names: Collection[str]) -> None:
    if names:
        raise UserError(
            f"Cannot write '{folder / min(names)}', as a file is there that Topgraft did not write: move it away, or "
            f"set another output_dir."
        )
