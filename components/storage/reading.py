"""Reads with retries if the storage fails."""

from __future__ import annotations

import errno
import re
import time
from collections.abc import Callable
from typing import TypeVar

import tensorflow as tf

from components.rejects import UNREADABLE, RejectedImage
from components.storage.places import describe_error, storage_errors

# The message of an error of a graph, without the place where the operation was created.
OWN_WORDS = re.compile(r"(.*)\n\t \[\[")
# The message of a failed assertion of the graph.
REFUSED = re.compile(r"assertion failed: \[(.*)\]")
# Seconds before each retry.
WAITS = (0.1, 0.5, 2.0)
# Errors about the file; all others are about the storage.
OF_THE_FILE = (
    *(FileNotFoundError, PermissionError),
    *(tf.errors.NotFoundError, tf.errors.PermissionDeniedError, tf.errors.UnimplementedError),
)
NUMBERS_OF_THE_FILE = (errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
T = TypeVar("T")


def try_reading(read: Callable[[], T], path: str) -> T:
    """Return the result of a read of a file, with retries if the storage fails.

    Raises RejectedImage for a file that is missing or must not be read, and OSError if all retries fail, which says
    nothing about the file.
    """
    for wait in (*WAITS, None):
        try:
            return read()
        except (tf.errors.OpError, *storage_errors()) as error:
            reason = _explain(error) if isinstance(error, tf.errors.OpError) else describe_error(error)
            if isinstance(error, OF_THE_FILE) or getattr(error, "errno", None) in NUMBERS_OF_THE_FILE:
                raise RejectedImage(UNREADABLE, reason) from error
            if wait is None:
                raise OSError(getattr(error, "errno", None) or errno.EIO, reason, path) from error
            time.sleep(wait)
    raise AssertionError


def _explain(error: tf.errors.OpError) -> str:
    """Return the message of TensorFlow in one line, without the names of operations."""
    message = error.message or type(error).__name__
    own = OWN_WORDS.search(message)
    message = own[1] if own else message.split("\n")[0]
    return re.sub(r"\{\{.*?\}\}|\[Op:.*", "", message).strip(" .")[:200]
