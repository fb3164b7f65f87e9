"""A fork server for workers: a process that has imported Beam and the stages, forks a worker at once, ends when idle.

An engine starts a worker for each part of a job, and the imports take five seconds of a processor each time.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib
import json
import os
import select
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

MODULES = (
    *("components.ingest.ingest", "components.validate.validate", "components.extract.extract"),
    *("components.evaluate.evaluate", "components.predict.beam_job", "pipeline.clusters.worker_probe"),
)
# Seconds: of a server without a worker until it ends, and until a new one must listen.
IDLE_TIMEOUT, START_TIMEOUT = 60, 90


def run_forked(words: list[str]) -> int:
    """Run a worker with the words of its command line in a fork of the server, and return its exit status.

    The worker has the environment and stdout of this process, and ends with it.
    """
    connection = _connect()
    socket.send_fds(connection, [json.dumps([words, dict(os.environ)]).encode()], [1])
    answer = connection.recv(1)
    return answer[0] if answer else 1  # no answer: it was killed


def locate_server() -> Path:
    """Return the socket of the server for this code, user and namespaces, in a folder that only the user can read."""
    names = [f"/proc/self/ns/{kind}" for kind in ("net", "mnt")]
    spaces = [os.readlink(name) for name in names if os.path.exists(name)]
    root = Path(__file__).parents[2]
    files = sorted([*root.glob("components/**/*.py"), *root.glob("pipeline/**/*.py")])
    stamps = [(str(file), file.stat().st_mtime_ns) for file in files]
    key = hashlib.sha256(repr((sys.executable, sys.path, spaces, stamps)).encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir(), f"topgraft-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid() or folder.is_symlink() or folder.stat().st_mode & 0o077:
        raise PermissionError(f"'{folder}' is not a private folder of this user: remove it.")
    return folder / key


def _connect() -> socket.socket:
    place, server, end = locate_server(), None, time.monotonic() + START_TIMEOUT
    with _locked(place):  # one server, however many workers start at once
        while True:
            connection = socket.socket(socket.AF_UNIX)
            with suppress(OSError):
                connection.connect(str(place))
                return connection
            connection.close()
            if server is None:
                with open(f"{place}.log", "w") as log:
                    command = [sys.executable, "-m", __name__, str(place)]
                    server = subprocess.Popen(
                        command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                    )
            if server.poll() is not None or time.monotonic() > end:
                raise ChildProcessError(f"The fork server for workers did not start: read '{place}.log'.")
            time.sleep(0.1)


@contextmanager
def _locked(place: Path) -> Iterator[None]:
    with open(f"{place}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def serve_forks(place: Path, work: Callable[[list[str]], None]) -> None:
    """Fork a process that does the work for each connection to a socket, until none has been there for a while."""
    for module in MODULES:
        importlib.import_module(module)
    place.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(place))
    listener.listen(64)
    children, last = 0, time.monotonic()
    while True:
        while children and os.waitpid(-1, os.WNOHANG)[0]:
            children, last = children - 1, time.monotonic()
        if not select.select([listener], [], [], 1)[0]:
            if children or time.monotonic() < last + IDLE_TIMEOUT:
                continue
            with _locked(place):  # nobody connects now
                if not select.select([listener], [], [], 0)[0]:
                    place.unlink(missing_ok=True)
                    return
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            _run_child(connection, work)
        connection.close()
        children += 1


def _run_child(connection: socket.socket, work: Callable[[list[str]], None]) -> None:
    status = 1
    try:
        request, outputs, _, _ = socket.recv_fds(connection, 1 << 20, 1)
        words, environment = json.loads(request)
        os.dup2(outputs[0], 1)  # a pool waits for a word there; errors stay in the log of the server
        os.environ.clear()
        os.environ.update(environment)

        def end_with_caller() -> None:
            if not connection.recv(1):
                os._exit(1)

        threading.Thread(target=end_with_caller, daemon=True).start()
        work(words)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(OSError):
            connection.send(bytes([status]))
        os._exit(status)


if __name__ == "__main__":
    from pipeline.clusters.worker import work

    serve_forks(Path(sys.argv[1]), work)
