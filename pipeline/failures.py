"""What ended a command from outside, in words: a full disk, one that cannot be written, no permission; an interrupt."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from typing import Optional

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
NO_ACCESS = (errno.EACCES, errno.EPERM, errno.EIO)


def describe_failure(error: BaseException) -> Optional[str]:
    """Return one sentence for an error, or one below it, that the file system raised, None for any other.

    By its words, as Beam hands on the text alone of what a worker raised, and TensorFlow has error classes of its own.
    """
    for text in _list_texts(error):
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
    return any("KeyboardInterrupt [while running" in text for text in _list_texts(error))


def _list_texts(error: Optional[BaseException]) -> Iterator[str]:
    while error is not None:
        yield str(error)
        error = error.__cause__ or error.__context__


def _find_place(text: str, reason: str) -> str:
    # Python: [Errno 28] No space left on device: 'path'; TensorFlow: path; No space left on device.
    found = re.search(rf"{reason}: '([^']+)'", text) or re.search(rf"(/[^\s;:]+); {reason}", text)
    return f"'{found[1]}'" if found else "A file"
