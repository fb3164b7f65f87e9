"""Write files atomically: under a temporary name, then by rename or upload."""

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
from components.storage.places import is_remote, list_files, make_folder, read_status, remove, upload

# Suffix of incomplete files and folders; after a run, those with it are from a killed run.
PARTIAL = ".topgraft-partial"


@contextmanager
def replacing_file(path: Path) -> Iterator[Path]:
    """Yield a temporary local path whose file replaces `path` after the block; after an exception it is removed."""
    if is_remote(path):
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder, path.name)
            upload(Path(folder, path.name), path)
        return
    make_folder(path.parent)
    # The uuid: processes of two containers that write to a shared folder often have the same number.
    partial = append_suffix(path, f".{os.getpid()}.{uuid4().hex}{PARTIAL}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically, with backslash escapes for names that are not Unicode."""
    with (
        replacing_file(path) as partial,
        open(partial, "w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        file.write(text)


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path, *keys: str) -> dict[str, Any]:
    """Return a JSON object that has the keys; raises DamagedFile for anything else, OSError for an unreadable file."""
    with suppress(ValueError, AttributeError):
        value: dict[str, Any] = json.loads(path.read_bytes())
        if value.keys() >= {*keys}:
            return value
    raise DamagedFile(str(path))


def remove_partials(folder: Path, name: str = "") -> None:
    """Remove the incomplete files of killed runs directly in a folder whose names begin with a name."""
    for partial in folder.glob(f"{name}*{PARTIAL}"):
        remove(partial)


def append_suffix(path: Path, suffix: str) -> Path:
    """Return the path with a suffix added to its name."""
    return path.with_name(path.name + suffix)


def fingerprint_file(path: Path | None) -> str:
    """Return a hash of paths, sizes and times of change of a file or of all files below a folder, '' for None."""
    if path is None:
        return ""
    if path.is_dir():
        files = {path / name: status for name, status in list_files(path).items()}
    else:
        files = {path: read_status(path)} if path.exists() else {}
    stamps = [f"{file} {size} {changed}" for file, (size, changed) in files.items()]
    return hashlib.sha256("\n".join(stamps).encode("utf-8", "surrogateescape")).hexdigest()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock beside `path` during the block; other processes wait for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # The lock file stays: another process may already wait for it.
    with open(append_suffix(path, ".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
