"""Write files and folders so that a reader sees the whole of one or nothing: temporary name, then rename."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Marks what is being written; whatever bears it after a run is left over from a killed one.
PARTIAL = ".partial"


@contextmanager
def replacing_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path; when the block ends well it takes the place of `path`, else it is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}{PARTIAL}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yield a new empty temporary folder; when the block ends well it takes the place of `path`, else it is removed."""
    partial = path.with_name(f"{path.name}{PARTIAL}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        shutil.rmtree(path, ignore_errors=True)
        os.replace(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text in one step; names that are not Unicode are kept as backslash escapes."""
    with replacing_file(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")


def write_json(path: Path, value: Any) -> None:
    """Write readable json in one step."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def remove_partials(folder: Path) -> None:
    """Remove what a killed run left half-written directly in a folder."""
    for left_over in folder.glob(f"*{PARTIAL}"):
        if left_over.is_dir():
            shutil.rmtree(left_over)
        else:
            left_over.unlink(missing_ok=True)


def beside(path: Path, suffix: str) -> Path:
    """Return the path of the same name with a suffix added."""
    return path.with_name(path.name + suffix)


def fingerprint_file(path: Path | None) -> str:
    """Return a hash of names, sizes and times of change of a file or of all below a folder, '' where there is none."""
    if path is None:
        return ""
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    stamps = [f"{file} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files if file.exists()]
    return hashlib.sha256("\n".join(stamps).encode("utf-8", "surrogateescape")).hexdigest()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other processes that ask for the same path waiting while the block runs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # The lock file stays: another process may already wait on it.
    with open(beside(path, ".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
