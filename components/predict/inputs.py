"""Find the files to predict from paths of files, of folders and from glob patterns."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

from components.data.keys import is_system_file
from components.errors import UserError
from components.storage.files import PARTIAL
from components.storage.places import as_path, find_matches, is_remote, walk_objects


def find_inputs(paths: Sequence[Path], output: Path | None = None) -> Iterator[str]:
    """Return the named files, the files below folders and those that match globs, in order and without the output.

    Folders are walked lazily, sorted by name; an unreadable folder is returned in place of its files. Raises UserError
    at once for a path or pattern that matches nothing, and where there is no file at all.
    """
    places = list(chain.from_iterable(map(_expand, paths)))
    written = _absolute(str(output)) if output else None
    files = (file for place in places for file in _walk(place, ()) if _absolute(file) != written)
    first = next(files, None)
    if first is None:
        raise UserError(f"There is no image in '{paths[0]}': give paths of images or of folders of images.")
    return chain([first], files)


def _absolute(place: str) -> str:
    return place if is_remote(place) else os.path.abspath(place)


def _expand(path: Path) -> Iterable[str]:
    if path.exists() if is_remote(path) else os.path.lexists(path):  # even with brackets in its name
        return [str(path)]
    # Skip litter that the pattern does not spell out; glob itself skips names with a dot unless the pattern has it.
    matches = [
        match
        for match in (find_matches(path) if glob.has_magic(str(path)) else [])
        if not any(is_system_file(part) and part not in path.parts and part[0] != "." for part in match.parts)
    ]
    if not matches:
        kind = "match for" if glob.has_magic(str(path)) else "file or folder"
        raise UserError(f"There is no {kind} '{path}': give paths of images or of folders of images.")
    return _leave_nested(matches)


def _leave_nested(matches: Iterable[Path]) -> Iterator[str]:
    """Yield sorted paths without those below an earlier one, as '**' matches a folder and its content."""
    folder = None
    for path in matches:
        if folder and folder in path.parents:
            continue
        folder = path if path.is_dir() else folder
        yield str(path)


def _walk(path: str, above: tuple[tuple[int, int], ...]) -> Iterator[str]:
    """Yield a file, or the files below a folder by name, following links except to a folder above."""
    if is_remote(path) and as_path(path).is_dir():
        for name, _ in walk_objects(as_path(path)):
            if not any(map(is_system_file, name.split("/"))):
                yield f"{path.rstrip('/')}/{name}"
        return
    try:
        status = os.stat(path)
        # Only names: a folder may hold a million.
        names = sorted(os.listdir(path))
    except OSError:
        yield path
        return
    identity = (status.st_dev, status.st_ino)
    if identity in above:
        yield path
        return
    for name in names:
        if not (is_system_file(name) or name.endswith(PARTIAL)):
            yield from _walk(os.path.join(path, name), (*above, identity))
