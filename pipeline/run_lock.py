"""Lock a run directory for one process; the kernel releases the lock however the process ends."""

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
from pipeline.output_dir import check_own, is_run_dir

LOCK_FILE = f"{OWN_PREFIX}.lock"


@contextmanager
def hold_run_dir(run: RunDir) -> Iterator[None]:
    """Lock a run directory while the block runs; create it if needed, and remove partial files of a killed process.

    Raises UserError for a folder of other files, a lock of another process, a folder that is not writable, and a folder
    that is removed meanwhile.
    """
    check_own(run.root)
    if is_remote(run.root):  # an object store has no lock that a killed process releases
        _mark(run.root)
        yield
        return
    made = not run.root.exists()
    path = run.root / LOCK_FILE
    lock = _take(path)
    try:
        _mark(run.root)
        remove_unfinished(run)
        yield
    except UserError:
        raise
    except Exception as error:
        if _is_at(lock, path):
            raise
        raise UserError(
            f"The folder '{run.root}' was removed while the run wrote to it: remove the rest of it, then the same "
            f"command starts again."
        ) from error
    finally:
        if _is_at(lock, path):
            if {*os.listdir(run.root)} == {MARK, LOCK_FILE}:
                (run.root / MARK).unlink()  # the run wrote nothing
            path.unlink()
        os.close(lock)
        with suppress(OSError):
            if made:
                run.root.rmdir()


def _mark(root: Path) -> None:
    try:
        if not is_run_dir(root):
            write_mark(root, ())
    except storage_errors() as error:
        raise UserError(
            f"Cannot write to '{root}' ({describe_error(error)}): set output_dir to a writable folder."
        ) from error


def _take(path: Path) -> int:
    """Return the descriptor of the locked file, whose content names this process."""
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise UserError(
                f"Cannot write to '{path.parent}' ({error.strerror}): set output_dir to a writable folder."
            ) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno == errno.EWOULDBLOCK:
                holder = _describe_holder(path)
                os.close(lock)
                raise UserError(
                    f"{holder} is running in '{path.parent}': wait for its end, or set another output_dir."
                ) from error
            # Some network file systems have no locks, so there the user must not start two runs at once.
        if _is_at(lock, path):
            break
        os.close(lock)  # the former holder removed the file meanwhile
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
    except (OSError, ValueError, KeyError, TypeError):  # the holder has not written its name yet
        return "Another process"


def remove_unfinished(run: RunDir) -> None:
    """Remove the partial files and folders of killed processes from a local run directory."""
    if is_remote(run.root):
        return
    for artifact in run.artifacts():
        remove_partials(run.root, artifact.name)
        for folder in (artifact, *(path for path in artifact.rglob("*") if path.is_dir())):
            remove_partials(folder)
