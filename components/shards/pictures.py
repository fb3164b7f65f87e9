"""Small pictures of images, read from the shards of examples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from components import features
from components.features import SPLITS
from components.images.thumbnail import make_thumbnail
from components.shards.index import read_index
from components.shards.names import index_name, shard_name
from components.shards.records import IMAGE_SPEC, read_batches
from components.shards.spans import list_shards
from components.storage.tables import decode_name, escape_name


def read_thumbnails(keys: set[str], examples: Path, shards: Sequence[int]) -> Iterator[tuple[str, Image.Image]]:
    """Yield (key, RGB thumbnail) for each key found in the shards; raises DamagedShard."""
    files = find_files(keys, examples, shards)
    for batch in read_batches(files, IMAGE_SPEC) if files else ():
        for key, encoded in zip(batch[features.KEY], batch[features.ENCODED], strict=True):
            text = decode_name(key)
            thumbnail = make_thumbnail(encoded) if text in keys else None
            if thumbnail:
                yield text, thumbnail


def find_files(keys: set[str], examples: Path, shards: Sequence[int]) -> list[str]:
    """Return the shard files that hold a key, as the shards' indexes tell: no others need be read."""
    files = []
    for shard in list_shards(shards):
        rows, _ = read_index(examples / index_name(shard))
        holding = {row.split for row in rows if row.split and escape_name(row.file.key) in keys}
        files += [str(examples / shard_name(split, shard)) for split in SPLITS if split in holding]
    return files
