"""Describe failures of the file system in one sentence, and recognise interrupts that Beam wraps."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Iterator

from components.errors import UserError
from components.storage.places import cloud_errors, describe_error

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
NO_ACCESS = (errno.EACCES, errno.EPERM, errno.EIO)
# Beam keeps only the text of a worker's exception, with its class in front. Only the classes of the file system and of
# TensorFlow count, as other exceptions may quote such an error.
RAISED_BY_WORKER = re.compile(
    r"^(?:RuntimeError: )?(?:OSError|PermissionError|tensorflow\.python\.framework\.errors_impl\.\w+"
    r"|google\.api_core\.exceptions\.\w+|gcsfs\.retry\.HttpError): (.+)",
    re.MULTILINE,
)
# Of gcsfs: "Forbidden: address" and "reason, 503"; of Beam's client: "403 GET address: reason".
REFUSED_BY_CLOUD = re.compile(r"^(?:Forbidden: |\d{3} [A-Z]+ https?:)|, [45]\d\d$")


def describe_user_error(error: BaseException) -> str | None:
    """Return the sentence of a UserError, or one on a refusal of Cloud Storage, else None."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, cloud_errors()):
        return describe_refusal(describe_error(error))
    return None


def describe_failure(error: BaseException) -> str | None:
    """Return one sentence if the file system raised an error or one in its chain, else None."""
    for text in _list_storage_errors(error):
        for number in (*NO_ROOM, *NO_ACCESS):
            reason = os.strerror(number)
            if reason in text:
                found, remedy = ("written", "free space") if number in NO_ROOM else ("read or written", "correct that")
                return (
                    f"{_find_place(text, reason)} cannot be {found} ({reason.lower()}): {remedy}, or choose another "
                    f"folder, and the same command continues where it stopped."
                )
        reason = re.split(r"\n|\\n| \[while running", text)[0]
        if REFUSED_BY_CLOUD.search(reason):
            return describe_refusal(reason)
    return None


def describe_refusal(text: str) -> str:
    """Return one sentence for an error of Cloud Storage."""
    return f"Cloud Storage refuses ({text}): check the path and your credentials."


def is_interrupt(error: BaseException) -> bool:
    """Return True for an interrupt while Beam runs a step, which Beam raises as a RuntimeError."""
    return any("KeyboardInterrupt [while running" in str(below) for below in _list_errors(error))


def _list_errors(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _list_storage_errors(error: BaseException) -> Iterator[str]:
    """Yield the text of each error in the chain that the file system or TensorFlow raised."""
    tensorflow = sys.modules.get("tensorflow")  # it cannot have raised anything unless it is loaded
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
