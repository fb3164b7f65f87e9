"""Why a file did not become a record: the reasons, and a row of rejects.jsonl; apart, so that listing stays light."""

from __future__ import annotations

from typing import NamedTuple

# The fixed list of reasons in rejects.jsonl.
NO_CLASS, BAD_NAME, UNREADABLE, EMPTY, TOO_LARGE, NOT_AN_IMAGE, UNSUPPORTED, CORRUPT, FAILED, DUPLICATE = (
    "no_class",
    "bad_name",
    "unreadable",
    "empty",
    "too_large",
    "not_an_image",
    "unsupported",
    "corrupt",
    "failed",  # its decoder raised, crashed or did not end
    "duplicate",
)


class Reject(NamedTuple):
    """One row of rejects.jsonl."""

    key: str
    reason: str
    detail: str


class RejectedImage(Exception):
    """A file that cannot become a record: args are the reason and a detail."""
