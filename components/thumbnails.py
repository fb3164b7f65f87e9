"""Small pictures of images, read from the shards of examples."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image, ImageOps

from components import features
from components.features import shard_name
from components.sharding import find_places
from components.shards import IMAGE_SPEC, read_batches

THUMBNAIL = 160  # pixels, the longer side


def read_thumbnails(
    keys: set[str], splits: Sequence[str], examples: Path, shards: Sequence[int]
) -> Iterator[tuple[str, Image.Image]]:
    """Yield (key, RGB thumbnail) for each key found in the shards where it must lie; raises DamagedShard."""
    places = sorted({place for key in keys for place in find_places(key, shards)})
    files = [str(examples / shard_name(split, place)) for place in places for split in splits]
    for batch in read_batches(files, IMAGE_SPEC):
        for key, encoded in zip(batch[features.KEY], batch[features.ENCODED]):
            text = key.decode("utf-8", "backslashreplace")
            thumbnail = make_thumbnail(encoded) if text in keys else None
            if thumbnail:
                yield text, thumbnail


def make_thumbnail(encoded: bytes) -> Image.Image | None:
    """Return an image, upright, THUMBNAIL pixels at its longer side; None for what Pillow does not read."""
    try:
        opened = Image.open(io.BytesIO(encoded))
        opened.draft("RGB", (2 * THUMBNAIL, 2 * THUMBNAIL))  # a JPEG is decoded no larger than it has to be
        image = ImageOps.exif_transpose(opened).convert("RGB")
    except Exception:  # Pillow's decoders raise almost anything on what TensorFlow's let pass
        return None
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    if max(image.size) < THUMBNAIL // 2:  # small images such as 8x8 digits, enlarged as they are
        factor = THUMBNAIL // max(image.size)
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    return image
