"""The reasons for which a file becomes no record, and the rows of rejects.jsonl."""

from __future__ import annotations

from typing import NamedTuple

# All reasons in rejects.jsonl; "failed" means that the decoder raised an error, crashed or did not end.
NO_CLASS, BAD_NAME, UNREADABLE, EMPTY, TOO_LARGE = "no_class", "bad_name", "unreadable", "empty", "too_large"
NOT_AN_IMAGE, UNSUPPORTED, CORRUPT, FAILED = "not_an_image", "unsupported", "corrupt", "failed"
DUPLICATE = "duplicate"


class Reject(NamedTuple):
    """One row of rejects.jsonl."""

    key: str
    reason: str
    detail: str


class RejectedImage(Exception):
    """Raised for a file that cannot become a record; args are (reason, detail)."""
