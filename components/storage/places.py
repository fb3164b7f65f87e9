"""Files and folders on the local disk or in Google Cloud Storage (gs://bucket/name), behind one kind of path."""

from __future__ import annotations

import glob
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")
R = TypeVar("R")

REMOTE = "gs://"
# Fields in a listing: full descriptions of a million objects would take gigabytes.
FIELDS = "items(name,size,generation),nextPageToken"
PAGE = 1000
# Concurrent requests.
CONNECTIONS = 16
# TensorFlow and Beam read these as patterns in the paths of checkpoints, SavedModels and results, and there is no way
# to escape them (tensorflow/tensorflow#35489, apache/beam#21140).
PATTERN = re.compile(r"[*?[\\]")


class Status(NamedTuple):
    """Size in bytes, and time of change in ns; for an object its generation, which every write changes."""

    size: int
    changed: int


def is_remote(place: str | os.PathLike[str]) -> bool:
    """Return whether a place is in Google Cloud Storage."""
    return str(place).startswith(REMOTE)


def expand_home(place: str) -> str:
    """Return a place with the home folder for a leading '~'."""
    return os.path.expanduser(place)


def as_path(place: str | os.PathLike[str]) -> Path:
    """Return the path of a place; `open`, `os` and `shutil` cannot use a remote one."""
    if isinstance(place, Path):
        return place
    if not is_remote(place):
        return Path(place)
    from components.storage.cloud_path import CloudPath  # local runs do not need it

    # Its cache of listings misses the writes of TensorFlow and of Beam's workers.
    remote: Path = CloudPath(str(place), use_listings_cache=False)
    return remote


def make_folder(path: Path) -> None:
    """Create a local folder and those above it; Cloud Storage has no folders."""
    if not is_remote(path):
        path.mkdir(parents=True, exist_ok=True)


def read_status(path: Path) -> Status:
    """Return size and time of change of a file; raises OSError if it does not exist."""
    if not is_remote(path):
        status = path.stat()
        return Status(status.st_size, status.st_mtime_ns)
    info = _system(path).info(str(path))
    return Status(info["size"], int(info.get("generation", 0)))


def list_files(folder: Path) -> dict[str, Status]:
    """Return the files below a folder by their paths relative to it, sorted; a remote one takes a request per page."""
    if is_remote(folder):
        return dict(walk_objects(folder))
    files = {}
    for path, _, names in os.walk(folder, onerror=_raise_unless_missing):
        for file in (Path(path, name) for name in names):
            try:
                if file.is_file():
                    files[file.relative_to(folder).as_posix()] = read_status(file)
            except FileNotFoundError:  # renamed between the listing and here
                continue
    return dict(sorted(files.items()))


def _raise_unless_missing(error: OSError) -> None:
    # Without this, as in pathlib's globs, an unreadable folder would count as empty.
    if not isinstance(error, FileNotFoundError):
        raise error


def walk_objects(folder: Path, nested: bool = True) -> Iterator[tuple[str, Status]]:
    """Yield the objects below a remote folder, only those directly below without nested, by relative path, in order."""
    for name, status in _walk(folder, nested):
        if not name.endswith("/") and name:  # an empty object that stands for a folder
            yield name, status


def _walk(folder: Path, nested: bool) -> Iterator[tuple[str, Status]]:
    bucket, _, name = str(folder)[len(REMOTE) :].partition("/")
    prefix, token = f"{name.rstrip('/')}/" if name else "", None
    while True:
        query = {"prefix": prefix, "delimiter": None if nested else "/", "pageToken": token}
        page = _system(folder).call("GET", "b/{}/o", bucket, **query, fields=FIELDS, maxResults=PAGE, json_out=True)
        for item in page.get("items", ()):
            yield item["name"][len(prefix) :], Status(int(item["size"]), int(item["generation"]))
        token = page.get("nextPageToken")
        if not token:
            return


def find_matches(pattern: str | os.PathLike[str]) -> list[Path]:
    """Return the files and folders that a pattern matches, sorted.

    A folder that exists under exactly the name in the pattern, such as 'photos [old]', is not a pattern.
    """
    scheme = REMOTE if is_remote(pattern) else ""
    parts = str(pattern)[len(scheme) :].split("/")
    above = [scheme + "/".join(parts[: number + 1]) for number in range(len(parts) - 1)]
    exist = [PATTERN.search(part) and as_path(place).exists() for part, place in zip(parts[:-1], above, strict=True)]
    escaped = scheme + "/".join(
        glob.escape(part) if exists else part for part, exists in zip(parts, [*exist, None], strict=True)
    )
    if not scheme:
        return sorted(map(Path, glob.iglob(escaped, recursive=True)))
    return sorted(as_path(f"{REMOTE}{name}") for name in _system(as_path(escaped)).glob(escaped))


def read_object(place: str) -> bytes:
    """Return the content of an object in one request; TensorFlow would make several."""
    content: bytes = _system(as_path(place)).cat_file(place)
    return content


def do_side_by_side(do: Callable[[T], R], items: Sequence[T], remote: bool) -> list[R]:
    """Return the result of do for each item, with concurrent requests if remote."""
    if not remote:
        return list(map(do, items))
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        return list(pool.map(do, items))


def remove(path: Path) -> None:
    """Remove a file, or a folder with its content, if it exists."""
    if not is_remote(path):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        return
    names = [f"{path}/{name}" for name, _ in _walk(path, nested=True)]
    if path.is_file():
        names.append(str(path))
    do_side_by_side(_system(path).rm_file, names, remote=True)


def remove_file(path: Path) -> None:
    """Remove a file, if it exists."""
    if is_remote(path):
        with suppress(FileNotFoundError):
            _system(path).rm_file(str(path))
    else:
        path.unlink(missing_ok=True)


def remove_empty_folders(folder: Path) -> None:
    """Remove the empty ones of a local folder and the folders below it."""
    if not is_remote(folder) and folder.is_dir() and not folder.is_symlink():
        for path, _, _ in os.walk(folder, topdown=False, onerror=_raise_unless_missing):
            if not os.listdir(path):
                os.rmdir(path)


def upload(local: Path, remote: Path, last: str = "") -> None:
    """Write a local file, or the files of a local folder, to a remote place; the file named last after all others."""
    if local.is_file():
        _system(remote).put_file(str(local), str(remote))
        return
    names = [name for name in list_files(local) if name != last]
    if names:
        _system(remote).put([str(local / name) for name in names], [str(remote / name) for name in names])
    if last:
        _system(remote).put_file(str(local / last), str(remote / last))


def move_file(source: Path, target: Path) -> None:
    """Move a file and replace the target: atomically if local, by a copy if remote."""
    if is_remote(source):
        _system(source).cp_file(str(source), str(target))
        remove_file(source)
    else:
        make_folder(target.parent)
        os.replace(source, target)


@contextmanager
def plain_folder(folder: Path) -> Iterator[Path]:
    """Yield a path to a folder for TensorFlow and Beam: itself, or a link to it if it has characters of PATTERN.

    The link exists only during the block and on this machine.
    """
    if is_remote(folder) or not PATTERN.search(os.path.abspath(folder)):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="topgraft-") as temporary:
        link = Path(temporary, "folder")
        link.symlink_to(os.path.abspath(folder), target_is_directory=True)
        yield link


@contextmanager
def local_copy(path: Path) -> Iterator[Path]:
    """Yield a local path of a file or folder: itself, or a copy that exists during the block."""
    if not is_remote(path):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, path.name)
        names = list(list_files(path))
        if names:
            _system(path).get([str(path / name) for name in names], [str(copy / name) for name in names])
        else:
            _system(path).get_file(str(path), str(copy))
        yield copy


def storage_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions that reading and writing raise, for an except clause."""
    return OSError, *cloud_errors()


def cloud_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions of Cloud Storage that are not OSErrors, such as those for missing credentials."""
    if "gcsfs" not in sys.modules:  # then none can have been raised
        return ()
    from aiohttp import ClientError
    from gcsfs.retry import HttpError
    from google.api_core.exceptions import GoogleAPIError  # of Beam's client
    from google.auth.exceptions import GoogleAuthError
    from google.resumable_media.common import InvalidResponse

    return HttpError, GoogleAuthError, ClientError, GoogleAPIError, InvalidResponse


def describe_error(error: Exception) -> str:
    """Return the reason of an error of storage_errors, one line."""
    missing = "no such file or folder" if isinstance(error, FileNotFoundError) else ""
    return getattr(error, "strerror", None) or missing or str(error).partition("\n")[0]


def _system(path: Path) -> Any:
    return path.fs  # type: ignore[attr-defined]
