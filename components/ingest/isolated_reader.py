"""Images read in a child process, where one that hangs, crashes or takes all memory harms nothing but itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any, NamedTuple

from components.data.image_file import ImageFile
from components.images.check import CheckedImage
from components.images.formats import Limits
from components.rejects import FAILED, RejectedImage

# An image of 100 megapixels, the most that is let through by default, is decoded in a second or two.
IMAGE_SECONDS = 60
# The child imports TensorFlow, which on a busy machine or a slow disk takes minutes.
START_SECONDS = 600
CHILD = "components.ingest.isolated_reader_child"
# A child that dies may have been taken for memory that others used up.
ATTEMPTS = 2


class Request(NamedTuple):
    """What the child is asked: to read and check files within seconds; it answers with as many images or rejects, or
    with the words of what was raised."""

    files: Sequence[ImageFile]
    limits: Limits
    seconds: int


class _Failure(NamedTuple):
    reason: str
    died: bool


class CarefulReader:
    """Reads images in a child process, started when first needed; to be used by one thread, closed at the end."""

    def __init__(self, limits: Limits, image_seconds: int = IMAGE_SECONDS):
        self._limits = limits
        self._image_seconds = image_seconds
        self._child: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None

    def read_batch(self, files: Sequence[ImageFile]) -> list[CheckedImage | RejectedImage]:
        """Read and check files side by side, as fast as it goes, and one by one where that fails."""
        answer = self._ask(files, self._image_seconds)
        return self.read_each(files) if isinstance(answer, _Failure) else answer

    def read_each(self, files: Sequence[ImageFile]) -> list[CheckedImage | RejectedImage]:
        """Read and check files one by one; that on which the child fails is a rejected image."""
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
            answer = self._ask([file], self._image_seconds)
            if not isinstance(answer, _Failure):
                return answer[0]
            if not answer.died:
                break
        return RejectedImage(FAILED, answer.reason)

    def _ask(self, files: Sequence[ImageFile], seconds: int) -> Any:
        connection = self._connection or self._start()
        try:
            connection.send(Request(files, self._limits, seconds))
            if connection.poll(seconds):
                answer = connection.recv()
            else:
                answer = _Failure(f"not read and decoded within {seconds} seconds", died=False)
        except (EOFError, OSError):
            answer = _Failure(f"the process that decoded it {self._describe_end()}", died=True)
        if isinstance(answer, OSError):  # of the storage: it tells nothing of the image
            raise answer
        if isinstance(answer, _Failure):
            self.close()
        return _Failure(answer, died=False) if isinstance(answer, str) else answer

    def _start(self) -> Connection:
        self._connection, theirs = Pipe()
        # A new interpreter: forking a process with TensorFlow's threads in it is not safe.
        command = [sys.executable, "-m", CHILD, str(theirs.fileno())]
        place = [str(Path(__file__).parents[2]), *filter(None, sys.path)]
        self._child = subprocess.Popen(
            command,
            pass_fds=[theirs.fileno()],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(place)},
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
        raise RuntimeError(f"The process that is to read images one by one {found}.")

    def _describe_end(self) -> str:
        assert self._child
        try:
            status = self._child.wait(timeout=10)
        except subprocess.TimeoutExpired:
            return "does not answer"
        return f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
