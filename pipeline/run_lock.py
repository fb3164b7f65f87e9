"""One process at a time in a run directory: a lock that the kernel releases with its holder, whatever ends that."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from components.errors import UserError
from components.run_dir import RunDir
from components.storage.files import remove_partials
from components.storage.ownership import MARK, OWN_PREFIX, write_mark
from components.storage.places import describe_error, is_remote, storage_errors
from pipeline.output_dir import check_own, is_run

LOCK_FILE = f"{OWN_PREFIX}.lock"


@contextmanager
def holding(run: RunDir) -> Iterator[None]:
    """Hold a run directory, made where it is missing, while the block runs; what a killed holder left is removed first.

    Raises UserError where it holds files that no run wrote and is no run directory, where another process holds it,
    where it cannot be written, and where it is removed meanwhile.
    """
    check_own(run.root)
    if is_remote(run.root):  # there is no lock that an object store would release for a killed holder
        _mark(run.root)
        yield
        return
    made = not run.root.exists()
    path = run.root / LOCK_FILE
    lock = _take(path)
    try:
        _mark(run.root)
        for artifact in run.artifacts():
            remove_partials(run.root, artifact.name)
            for folder in (artifact, *(path for path in artifact.rglob("*") if path.is_dir())):
                remove_partials(folder)
        yield
    except UserError:
        raise
    except Exception as error:
        if _is_at(lock, path):
            raise
        raise UserError(
            f"The folder '{run.root}' was removed while the run wrote to it: remove what is left there, then the same "
            f"command begins it anew."
        ) from error
    finally:
        if _is_at(lock, path):
            if {*os.listdir(run.root)} == {MARK, LOCK_FILE}:
                (run.root / MARK).unlink()  # nothing came of the run
            path.unlink()
        os.close(lock)
        with suppress(OSError):
            if made:
                run.root.rmdir()


def _mark(root: Path) -> None:
    try:
        if not is_run(root):
            write_mark(root, ())
    except storage_errors() as error:
        raise UserError(
            f"Cannot write to '{root}' ({describe_error(error)}): set output_dir to a folder that can be written."
        ) from error


def _take(path: Path) -> int:
    """Return the descriptor of the file, locked; it tells others who holds it."""
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise UserError(
                f"Cannot write to '{path.parent}' ({error.strerror}): set output_dir to a folder that can be written."
            ) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno == errno.EWOULDBLOCK:
                holder = _describe_holder(path)
                os.close(lock)
                raise UserError(
                    f"{holder} is running in '{path.parent}': wait until it has ended, or set another output_dir."
                ) from error
            # Some network file systems have no locks: two runs at once are then the user's to avoid.
        if _is_at(lock, path):
            break
        os.close(lock)  # its former holder removed it before we had it
    os.ftruncate(lock, 0)
    since = datetime.now().astimezone().isoformat(" ", "seconds")
    os.write(lock, json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since}).encode())
    return lock


def _is_at(lock: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(lock), os.stat(path))
    except FileNotFoundError:
        return False


def _describe_holder(path: Path) -> str:
    try:
        holder = json.loads(path.read_bytes())
        return f"Process {holder['pid']} on {holder['host']}, since {holder['since']},"
    except (OSError, ValueError, KeyError, TypeError):  # it has only just begun
        return "Another process"
