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
# Beam keeps only the text of a worker's exception, with its class in front. Only the classes of the file system, of
# Cloud Storage and of TensorFlow count, as other exceptions may quote such an error.
RAISED_BY_WORKER = re.compile(
    r"^(?:RuntimeError: )?(?:tensorflow\.python\.framework\.errors_impl\.|google\.api_core\.exceptions\."
    r"|google\.resumable_media\.common\.|gcsfs\.retry\.|(?:apache_beam\.io\.filesystem\.)?(?=BeamIOError)"
    r"|(?=OSError|PermissionError))(\w+: .+)",
    re.MULTILINE,
)
# Of gcsfs, of Beam's client, and of TensorFlow, whose text for it is not always readable.
REFUSED_BY_CLOUD = re.compile(
    r"OSError: Forbidden: |HttpError: |InvalidResponse: |\w+: \d{3} [A-Z]+ https?:|"
    r"(?:PermissionDenied|Unauthenticated|Unavailable)Error: "
)


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
        if REFUSED_BY_CLOUD.match(text):
            return describe_refusal(re.split(r"\n|\\n| \[while running", text.partition(": ")[2])[0])
        if text.startswith("BeamIOError: "):
            reason = " ".join(text.partition(" [while running")[0].split()[1:])
            return (
                f"Beam cannot read or write files ({reason[:300]}): check the path, its permissions and the free "
                f"space, then the same command continues where it stopped."
            )
    return None


def describe_refusal(text: str) -> str:
    """Return one sentence for an error of Cloud Storage."""
    text = re.sub(r"\{\{.*?\}\} *", "", text)  # a node of TensorFlow's graph
    return f"Cloud Storage refuses ({text}): check the path and your credentials."


def is_interrupt(error: BaseException) -> bool:
    """Return True for an interrupt while Beam runs a step, which Beam raises as a RuntimeError."""
    return any("KeyboardInterrupt [while running" in str(below) for below in _list_errors(error))


def _list_errors(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _list_storage_errors(error: BaseException) -> Iterator[str]:
    """Yield class and text of each error in the chain that the file system, Cloud Storage or TensorFlow raised."""
    tensorflow = sys.modules.get("tensorflow")  # it cannot have raised anything unless it is loaded
    storage = (OSError, *cloud_errors(), *([tensorflow.errors.OpError] if tensorflow else []))
    for below in _list_errors(error):
        if isinstance(below, storage):
            yield f"{type(below).__name__}: {below}"
        elif isinstance(below, RuntimeError):
            yield from RAISED_BY_WORKER.findall(str(below))


def _find_place(text: str, reason: str) -> str:
    # Python: [Errno 28] No space left on device: 'path'; TensorFlow: path; No space left on device.
    found = re.search(rf"{reason}: '([^']+)'", text) or re.search(rf"(/[^\s;:]+); {reason}", text)
    return f"'{found[1]}'" if found else "A file"
