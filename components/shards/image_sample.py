"""A sample of a run's images, spread over shards and classes; of other images only the lengths are read."""

from __future__ import annotations

import itertools
import math
import operator
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from components.data.tf_examples import find_offsets, parse_features, read_content
from components.errors import DamagedShard
from components.features import ENCODED, KEY
from components.rejects import RejectedImage
from components.shards.names import shard_name
from components.shards.spans import list_shards
from components.storage.places import as_path
from components.storage.tables import decode_name

# Each shard has a random part of the images of its span, sorted by key.
MAX_SAMPLED_SHARDS = 8


class SampledImage(NamedTuple):
    """The key of an image, as in tables, and its encoded bytes."""

    key: str
    encoded: bytes


def sample_images(examples: Path, splits: Sequence[str], shards: Sequence[int], count: int) -> list[SampledImage]:
    """Return up to count images of some splits, evenly spaced in their shards; the choice is deterministic.

    Raises DamagedShard for a damaged or missing file.
    """
    listed = list_shards(shards)
    chosen = listed[:: math.ceil(len(listed) / MAX_SAMPLED_SHARDS)]
    files = [str(examples / shard_name(split, shard)) for shard in chosen for split in splits]
    records = [(file, offset) for file in files for offset in _find_offsets(file)]
    rows = np.linspace(0, len(records) - 1, min(count, len(records))).round().astype(int)
    picked = itertools.groupby((records[row] for row in rows), operator.itemgetter(0))
    return [image for file, group in picked for image in _read_images(file, [offset for _, offset in group])]


def _find_offsets(file: str) -> list[int]:
    try:
        return find_offsets(as_path(file))
    except FileNotFoundError as error:
        raise DamagedShard(file) from error


def _read_images(file: str, offsets: Sequence[int]) -> list[SampledImage]:
    images = []
    try:
        with as_path(file).open("rb") as records:
            size = records.seek(0, os.SEEK_END)
            for offset in offsets:
                records.seek(offset)
                features = parse_features(read_content(records, size - offset))
                key, encoded = (features[name].bytes_list.value[0] for name in (KEY, ENCODED))
                images.append(SampledImage(decode_name(key), encoded))
    except (RejectedImage, IndexError) as error:  # a damaged record, or one of another program
        raise DamagedShard(file) from error
    return images
