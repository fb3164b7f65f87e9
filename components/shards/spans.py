"""Which shard an image lies in: by the hash of its key within a span, and a span of its own for what is appended."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from components.shards.names import Shard

# One shard holds about this many images: small enough to be a cheap unit of retry, large enough to stream.
IMAGES_PER_SHARD = 1200
# Up to so many images all lie in one span, however they came: to write them again takes seconds.
ONE_SPAN = 4 * IMAGES_PER_SHARD


def hash_fraction(key: str, salt: str) -> float:
    """Map a key to [0, 1), uniformly and independently for each salt."""
    digest = hashlib.blake2b(f"{salt}\0{key}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53  # 53 bits: exact in a double and never rounded up to 1


def assign_shard(key: str, shards: int) -> int:
    """Return the shard number of a key in [0, shards), the same whatever its split."""
    return int(hash_fraction(key, "shard") * shards)


def choose_shards(images: int) -> int:
    """Return a power of two near images / IMAGES_PER_SHARD, so that the number seldom changes as data grows."""
    shards = 1
    while shards * IMAGES_PER_SHARD < images:
        shards *= 2
    return shards


def list_shards(spans: Sequence[int]) -> list[Shard]:
    """Return the shards of spans, given how many each has, in order."""
    return [Shard(number, count, span) for span, count in enumerate(spans) for number in range(count)]


def place_key(key: str, spans: Sequence[int]) -> Shard:
    """Return the shard of the newest of some spans in which a new image lies."""
    return Shard(assign_shard(key, spans[-1]), spans[-1], len(spans) - 1)


def keeps_spans(former: Sequence[int], images: int, asked: int | None) -> bool:
    """Tell whether the spans of an earlier run stay as they are now that there are so many images.

    They do not where the number of shards that is asked for is no longer that of the first span.
    """
    return bool(former) and images > ONE_SPAN and asked in (None, former[0])


def plan_spans(former: Sequence[int], newest: int, new: int) -> list[int]:
    """Return the spans that stay, of which the last holds `newest` images, and where need be one for `new` images.

    The last one takes them while all fit one shard, as it is written again for them. So two spans in a row hold more
    than one shard does, however little is appended at a time, and no span has to be merged with another.
    """
    return [*former] if not new or newest + new <= IMAGES_PER_SHARD else [*former, choose_shards(new)]
