"""Shard of an image: a pure function of its key, so it holds when the folder moves or grows."""

from __future__ import annotations

import hashlib

# One shard holds about this many images: small enough to be a cheap unit of retry, large enough to stream.
IMAGES_PER_SHARD = 1200


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
