"""Names of shards and of their files."""

from __future__ import annotations

import re
from typing import NamedTuple

from components.features import SPLITS


class Shard(NamedTuple):
    """One shard of a span: its number, the number of shards, and the span, 0 for the first."""

    number: int
    of: int
    span: int = 0


def shard_name(split: str, shard: Shard) -> str:
    """Return the file name of a shard, such as train-00003-of-00008.tfrecord, or train-span2-... in a later span."""
    return f"{split}-{_name_shard(shard)}.tfrecord"


def index_name(shard: Shard) -> str:
    """Return the file name of the index of a shard, such as files-00003-of-00008.json."""
    return f"files-{_name_shard(shard)}.json"


def shard_names(shard: Shard) -> list[str]:
    """Return the names of the files of a shard, one per split."""
    return [shard_name(split, shard) for split in SPLITS]


def is_index(name: str) -> bool:
    """Return whether a name is that of the index of a shard."""
    return name.startswith("files-") and name.endswith(".json") and parse_shard(name) is not None


def _name_shard(shard: Shard) -> str:
    return f"{f'span{shard.span}-' if shard.span else ''}{shard.number:05d}-of-{shard.of:05d}"


def parse_shard(name: str) -> Shard | None:
    """Return the shard in the name of a file, None for any other name."""
    match = re.fullmatch(r"[a-z]+-(?:span(\d+)-)?(\d{5})-of-(\d{5})\.(?:tfrecord|json)", name)
    return Shard(int(match[2]), int(match[3]), int(match[1] or 0)) if match else None


def is_shard(name: str) -> bool:
    """Return whether a name is that of a TFRecord file of a shard; its readers compare the checksums of its records."""
    return name.partition("-")[0] in SPLITS and name.endswith(".tfrecord") and parse_shard(name) is not None
