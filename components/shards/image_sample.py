"""A sample of a run's images, spread over shards and classes; of the other images the lengths alone are read."""

from __future__ import annotations

import itertools
import math
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

# Shards that are looked at. Each holds a random part of the images of its span, sorted by key.
MOST_SHARDS = 8


class SampledImage(NamedTuple):
    """An image's key, as tables have it, and its encoded bytes."""

    key: str
    encoded: bytes


def sample_images(examples: Path, splits: Sequence[str], shards: Sequence[int], count: int) -> list[SampledImage]:
    """Return up to so many images of some splits, at even distances in their shards, the same each time.

    Raises DamagedShard for a file that is damaged or missing.
    """
    listed = list_shards(shards)
    chosen = listed[:: math.ceil(len(listed) / MOST_SHARDS)]
    files = [str(examples / shard_name(split, shard)) for shard in chosen for split in splits]
    places = [(file, offset) for file in files for offset in _find_offsets(file)]
    rows = np.linspace(0, len(places) - 1, min(count, len(places))).round().astype(int)
    picked = itertools.groupby((places[row] for row in rows), lambda place: place[0])
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
    except (RejectedImage, IndexError) as error:  # a damaged record, or none of ours
        raise DamagedShard(file) from error
    return images
