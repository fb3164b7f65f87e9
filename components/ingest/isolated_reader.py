"""Read images in a child process, so that an image that hangs, crashes or exhausts memory harms only that process.

python -m components.ingest.isolated_reader DESCRIPTOR is the child.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any, NamedTuple

from components.data.image_file import ImageFile
from components.images.check import CheckedImage
from components.images.formats import Limits
from components.ingest.read_images import read_images
from components.rejects import FAILED, RejectedImage

# An image of 100 megapixels, the default limit, is decoded in one or two seconds.
IMAGE_SECONDS = 60
# The child imports TensorFlow, which takes minutes on a busy machine or a slow disk.
START_SECONDS = 600
# After the limit of the parent: it ends a child whose parent has died.
GRACE_SECONDS = 10
CHILD = "components.ingest.isolated_reader"
# The kernel may kill a child because other processes use too much memory.
ATTEMPTS = 2


class _Failure(NamedTuple):
    reason: str
    died: bool


class IsolatedReader:
    """Reads images in a child process that starts on first use; for one thread, which closes it."""

    def __init__(self, limits: Limits, image_seconds: int = IMAGE_SECONDS):
        self._limits = limits
        self._image_seconds = image_seconds
        self._child: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None

    def read_batch(self, files: Sequence[ImageFile]) -> list[CheckedImage | RejectedImage]:
        """Read and check files side by side, or one by one if that fails."""
        answer = self._ask(files)
        return self.read_each(files) if isinstance(answer, _Failure) else answer

    def read_each(self, files: Sequence[ImageFile]) -> list[CheckedImage | RejectedImage]:
        """Read and check files one by one; an image on which the child fails is rejected."""
        return [self._read_alone(file) for file in files]

    def close(self) -> None:
        """End the child."""
        if self._child and self._connection:
            self._connection.close()
            self._child.kill()
            self._child.wait()
        self._child = self._connection = None

    def _read_alone(self, file: ImageFile) -> CheckedImage | RejectedImage:
        for _ in range(ATTEMPTS):
            answer = self._ask([file])
            if not isinstance(answer, _Failure):
                return answer[0]
            if not answer.died:
                break
        return RejectedImage(FAILED, answer.reason)

    def _ask(self, files: Sequence[ImageFile]) -> Any:
        connection = self._connection or self._start()
        try:
            connection.send((files, self._limits, self._image_seconds))
            if connection.poll(self._image_seconds):
                answer = connection.recv()
            else:
                answer = _Failure(f"not read and decoded within {self._image_seconds} seconds", died=False)
        except (EOFError, OSError):
            answer = _Failure(f"the process that decoded it {self._describe_end()}", died=True)
        if isinstance(answer, OSError):  # the storage failed, which says nothing about the image
            raise answer
        if isinstance(answer, _Failure):
            self.close()
        return _Failure(answer, died=False) if isinstance(answer, str) else answer

    def _start(self) -> Connection:
        self._connection, theirs = Pipe()
        path = [str(Path(__file__).parents[2]), *filter(None, sys.path)]
        # A new interpreter: it is not safe to fork a process that has TensorFlow's threads.
        self._child = subprocess.Popen(
            [sys.executable, "-m", CHILD, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        theirs.close()
        try:
            if self._connection.poll(START_SECONDS):
                self._connection.recv()
                return self._connection
            found = f"was not ready within {START_SECONDS} seconds"
        except EOFError:
            found = self._describe_end()
        self.close()
        raise RuntimeError(f"The process that reads images one by one {found}.")

    def _describe_end(self) -> str:
        assert self._child
        try:
            status = self._child.wait(timeout=10)
        except subprocess.TimeoutExpired:
            return "does not answer"
        return f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"


def answer_requests(connection: Connection) -> None:
    """Answer each (files, limits, seconds) with images and rejects, or with an error, until the parent closes."""
    with suppress(OSError):  # if memory runs out, the kernel ends this process instead of the run (proc(5))
        Path("/proc/self/oom_score_adj").write_text("1000")
    # The default action of the kernel also ends a process that hangs in C code.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection.send("ready")
    with suppress(EOFError):
        while True:
            files, limits, seconds = connection.recv()
            signal.alarm(seconds + GRACE_SECONDS)
            try:
                connection.send(read_images(files, limits))
            except OSError as error:  # the storage failed, which ends the run
                connection.send(OSError(error.errno, error.strerror, error.filename))
            except Exception as error:
                connection.send(f"{type(error).__name__}: {error}"[:200])
            signal.alarm(0)


if __name__ == "__main__":
    answer_requests(Connection(int(sys.argv[1])))
