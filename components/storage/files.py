"""Write files and folders so that a reader sees the whole of one or nothing: temporary name, then rename or upload."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from components.errors import DamagedFile
from components.storage.places import is_remote, list_files, make_folder, measure, remove, upload

# Marks what is being written; whatever bears it after a run is left over from a killed one.
PARTIAL = ".topgraft-partial"


@contextmanager
def replacing_file(path: Path) -> Iterator[Path]:
    """Yield a temporary local path; when the block ends well it takes the place of `path`, else it is removed."""
    if is_remote(path):
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder, path.name)
            upload(Path(folder, path.name), path)
        return
    make_folder(path.parent)
    # Not named by process: processes of two containers that write to one shared folder often have the same number.
    partial = beside(path, f".{os.getpid()}.{uuid4().hex}{PARTIAL}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text in one step; names that are not Unicode are kept as backslash escapes."""
    with (
        replacing_file(path) as partial,
        open(partial, "w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        file.write(text)


def write_json(path: Path, value: Any) -> None:
    """Write readable json in one step."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path, *keys: str) -> dict[str, Any]:
    """Return a json object that has some keys; raises DamagedFile for anything else, OSError for an unreadable file."""
    with suppress(ValueError, AttributeError):
        value: dict[str, Any] = json.loads(path.read_bytes())
        if value.keys() >= {*keys}:
            return value
    raise DamagedFile(str(path))


def remove_partials(folder: Path, name: str = "") -> None:
    """Remove what a killed run left half-written directly in a folder, under names that begin with one."""
    for left_over in folder.glob(f"{name}*{PARTIAL}"):
        remove(left_over)


def beside(path: Path, suffix: str) -> Path:
    """Return the path of the same name with a suffix added."""
    return path.with_name(path.name + suffix)


def fingerprint_file(path: Path | None) -> str:
    """Return a hash of names, sizes and times of change of a file or of all below a folder, '' where there is none."""
    if path is None:
        return ""
    if path.is_dir():
        files = {path / name: status for name, status in list_files(path).items()}
    else:
        files = {path: measure(path)} if path.exists() else {}
    stamps = [f"{file} {size} {changed}" for file, (size, changed) in files.items()]
    return hashlib.sha256("\n".join(stamps).encode("utf-8", "surrogateescape")).hexdigest()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other processes that ask for the same path waiting while the block runs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # The lock file stays: another process may already wait on it.
    with open(beside(path, ".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
