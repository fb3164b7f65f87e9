"""The shard of an image: by the hash of its key within a span; appended images get a new span."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from components.shards.names import Shard

# One shard holds about this many images: small enough to be a cheap unit of retry, large enough to stream.
IMAGES_PER_SHARD = 1200
# Up to so many images are in one span: it takes seconds to write them again.
ONE_SPAN = 4 * IMAGES_PER_SHARD


def hash_fraction(key: str, salt: str) -> float:
    """Return a hash of a key in [0, 1), uniform and independent for each salt."""
    digest = hashlib.blake2b(f"{salt}\0{key}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53  # 53 bits: exact in a double and never rounded up to 1


def hash_key(key: str) -> float:
    """Return the position of a key in [0, 1), which decides its shard."""
    return hash_fraction(key, "shard")


def assign_shard(key: str, shards: int) -> int:
    """Return the shard number of a key in [0, shards), which does not depend on its split."""
    return int(hash_key(key) * shards)


def choose_places(positions: np.ndarray, shards: int) -> np.ndarray:
    """Map positions, float64[N] of hash_key, to numbers of shards, int32[N] in [0, shards)."""
    return (positions * shards).astype(np.int32)


@dataclass(frozen=True, eq=False)
class RowGroups:
    """N rows by the number of their group."""

    order: np.ndarray  # int64[N], rows sorted by group, in a group ascending
    ends: np.ndarray  # int64[groups]

    @classmethod
    def of(cls, numbers: np.ndarray, count: int) -> RowGroups:
        """Return the rows by their groups, int32[N] in [0, count)."""
        return cls(np.argsort(numbers, kind="stable"), np.cumsum(np.bincount(numbers, minlength=count)))

    def find(self, number: int) -> np.ndarray:
        """Return the rows of a group, int64[M]."""
        return self.order[self.ends[number - 1] if number else 0 : self.ends[number]]


def choose_shards(images: int) -> int:
    """Return a power of two of at least images / IMAGES_PER_SHARD, which rarely changes as data grows."""
    shards = 1
    while shards * IMAGES_PER_SHARD < images:
        shards *= 2
    return shards


def list_shards(spans: Sequence[int]) -> list[Shard]:
    """Return the shards of spans in order, given the number of shards per span."""
    return [Shard(number, count, span) for span, count in enumerate(spans) for number in range(count)]


def keeps_spans(former: Sequence[int], images: int, asked: int | None) -> bool:
    """Return whether the spans of an earlier run stay for a number of images and the configured number of shards.

    They change if that number is set and differs from that of the first span.
    """
    return bool(former) and images > ONE_SPAN and asked in (None, former[0])


def plan_spans(former: Sequence[int], newest: int, new: int) -> list[int]:
    """Return the former spans, of which the last has `newest` images, with another one for `new` images if necessary.

    New images go to the last span, which is written again, while its images fit into one shard. So two adjacent spans
    have more images than one shard, and spans need no merge even after many small additions.
    """
    return [*former] if not new or newest + new <= IMAGES_PER_SHARD else [*former, choose_shards(new)]
