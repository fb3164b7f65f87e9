"""Detect the death of a worker process of Beam's local runner, for which the runner would wait forever."""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class LostWorker(Exception):
    """A worker process ended on its own; the argument is its exit status."""


@contextmanager
def detect_lost_workers() -> Iterator[None]:
    """Raise LostWorker in the main thread if a worker process dies while the block runs a pipeline.

    Another thread cannot be interrupted, so nothing is detected there.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    lost: list[int] = []
    interrupted: list[int] = []
    hook, handler = threading.excepthook, signal.getsignal(signal.SIGINT)

    def notice(failure: threading.ExceptHookArgs) -> None:
        # Raised by the thread that waits for the process (Beam 2.72, local_job_service.SubprocessSdkWorker.run).
        found = re.fullmatch(r"Worker subprocess exited with return code (-?\d+)", str(failure.exc_value))
        if not found:
            hook(failure)
        elif not lost and not interrupted:
            lost.append(int(found[1]))
            # Only a signal interrupts the main thread, which waits for the worker.
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    def interrupt(number: int, frame: FrameType | None) -> None:
        if not lost and handler == signal.SIG_IGN:
            return
        if not lost:  # from the keyboard, which also ends the workers
            interrupted.append(number)
        raise KeyboardInterrupt

    threading.excepthook = notice
    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    except BaseException as error:
        if lost:
            raise LostWorker(lost[0]) from error
        raise
    finally:
        threading.excepthook = hook
        signal.signal(signal.SIGINT, handler)
