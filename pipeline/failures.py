"""What ended a command from outside, in words: a full disk, one that cannot be written, no permission; an interrupt."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Iterator

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
NO_ACCESS = (errno.EACCES, errno.EPERM, errno.EIO)
# Beam hands on the text alone of what a worker raised, its class before it: that of an error of the file system or of
# TensorFlow. Any other may quote one, but is not one.
RAISED_BY_WORKER = re.compile(
    r"^(?:RuntimeError: )?(?:OSError|PermissionError|tensorflow\.python\.framework\.errors_impl\.\w+): (.+)",
    re.MULTILINE,
)


def describe_failure(error: BaseException) -> str | None:
    """Return one sentence for an error, or one below it, that the file system raised, None for any other."""
    for text in _list_storage_errors(error):
        for number in (*NO_ROOM, *NO_ACCESS):
            reason = os.strerror(number)
            if reason in text:
                found, remedy = ("written", "make room") if number in NO_ROOM else ("read or written", "mend that")
                return (
                    f"{_find_place(text, reason)} cannot be {found} ({reason.lower()}): {remedy}, or choose another "
                    f"place, and the same command continues where it stopped."
                )
    return None


def is_interrupt(error: BaseException) -> bool:
    """Tell whether an error is an interrupt: one that comes while a step runs Beam hands on as a RuntimeError."""
    return any("KeyboardInterrupt [while running" in str(below) for below in _list_errors(error))


def _list_errors(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _list_storage_errors(error: BaseException) -> Iterator[str]:
    """Yield the texts of an error and those below it, as far as the file system or TensorFlow raised them."""
    tensorflow = sys.modules.get("tensorflow")  # if it is not loaded, it has raised nothing
    storage = (OSError, tensorflow.errors.OpError) if tensorflow else OSError
    for below in _list_errors(error):
        if isinstance(below, storage):
            yield str(below)
        elif isinstance(below, RuntimeError):
            yield from RAISED_BY_WORKER.findall(str(below))


def _find_place(text: str, reason: str) -> str:
    # Python: [Errno 28] No space left on device: 'path'; TensorFlow: path; No space left on device.
    found = re.search(rf"{reason}: '([^']+)'", text) or re.search(rf"(/[^\s;:]+); {reason}", text)
    return f"'{found[1]}'" if found else "A file"
