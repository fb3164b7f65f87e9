"""Thumbnails of images from the shards of examples, and those of a page within its budget."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from components import features
from components.features import SPLITS
from components.images.thumbnail import make_thumbnail
from components.pages.html import encode_uri
from components.shards.index import read_index
from components.shards.names import index_name, shard_name
from components.shards.records import IMAGE_SPEC, read_batches
from components.shards.spans import list_shards
from components.storage.tables import decode_name, escape_name

# Characters of all data URIs: with Plotly's 5 MB and the tables of 10,000 images the page stays below 20 MB.
BUDGET = 9_000_000
# Small pictures that are read, at 3 ms each.
MAX_SMALL = 2500
SMALL = 80  # pixels, the longer side


def collect_pictures(
    large: Sequence[str], small: Sequence[str], examples: Path, shards: Sequence[int]
) -> dict[str, str]:
    """Return data URIs by key within BUDGET: the large pictures, then small ones, each in their order.

    Keys can repeat. A key that is in no shard, or that Pillow cannot read, has no URI. Raises DamagedShard.
    """
    big = set(large)
    wanted = [*dict.fromkeys(large), *[key for key in dict.fromkeys(small) if key not in big][:MAX_SMALL]]
    uris = {}
    for key, image in read_thumbnails(set(wanted), examples, shards):
        if key not in big:
            image.thumbnail((SMALL, SMALL))
        uris[key] = encode_uri(image)
    pictures, size = {}, 0
    for key in wanted:
        if key in uris and size + len(uris[key]) <= BUDGET:
            pictures[key] = uris[key]
            size += len(uris[key])
    return pictures


def read_thumbnails(keys: set[str], examples: Path, shards: Sequence[int]) -> Iterator[tuple[str, Image.Image]]:
    """Yield (key, RGB thumbnail) for each key found in the shards; raises DamagedShard."""
    for key, encoded in read_encoded(keys, examples, shards):
        thumbnail = make_thumbnail(encoded)
        if thumbnail:
            yield key, thumbnail


def read_encoded(keys: set[str], examples: Path, shards: Sequence[int]) -> Iterator[tuple[str, bytes]]:
    """Yield (key, encoded image) for each key found in the shards; raises DamagedShard."""
    files = []
    for shard in list_shards(shards):
        rows, _ = read_index(examples / index_name(shard))  # only the files with a key are read
        splits = {row.split for row in rows if row.split and escape_name(row.file.key) in keys}
        files += [str(examples / shard_name(split, shard)) for split in SPLITS if split in splits]
    for batch in read_batches(files, IMAGE_SPEC) if files else ():
        for key, encoded in zip(batch[features.KEY], batch[features.ENCODED], strict=True):
            text = decode_name(key)
            if text in keys:
                yield text, encoded
