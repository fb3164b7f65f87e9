"""Small pictures of images, read from the shards of examples."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from components import features
from components.features import index_name, shard_name
from components.file_index import read_index
from components.image_headers import (
    FORMATS,
    Limits,
    check_pixels,
    drop_jpeg_metadata,
    find_exif,
    find_format,
    read_orientation,
)
from components.sharding import list_shards
from components.shards import IMAGE_SPEC, read_batches
from components.tables import decode_name, escape_name
from components.transcoding import set_upright

THUMBNAIL = 160  # pixels, the longer side
MOST_PIXELS = 100_000_000  # of what Pillow decodes for one


def read_thumbnails(
    keys: set[str], splits: Sequence[str], examples: Path, shards: Sequence[int]
) -> Iterator[tuple[str, Image.Image]]:
    """Yield (key, RGB thumbnail) for each key found in the shards; raises DamagedShard."""
    files = find_files(keys, splits, examples, shards)
    for batch in read_batches(files, IMAGE_SPEC) if files else ():
        for key, encoded in zip(batch[features.KEY], batch[features.ENCODED]):
            text = decode_name(key)
            thumbnail = make_thumbnail(encoded) if text in keys else None
            if thumbnail:
                yield text, thumbnail


def find_files(keys: set[str], splits: Sequence[str], examples: Path, shards: Sequence[int]) -> list[str]:
    """Return the shard files of some splits that hold a key, as the shards' indexes tell: no others need be read."""
    files = []
    for shard in list_shards(shards):
        rows, _ = read_index(examples / index_name(shard))
        holding = {row.split for row in rows if row.split and escape_name(row.file.key) in keys}
        files += [str(examples / shard_name(split, shard)) for split in splits if split in holding]
    return files


def make_thumbnail(encoded: bytes) -> Image.Image | None:
    """Return an image that has passed inspect_image, upright, THUMBNAIL pixels at its longer side; None for what Pillow
    does not read."""
    try:
        # Pillow takes all that tags of EXIF point to, and one megabyte that a thousand share is a gigabyte.
        is_jpeg = find_format(encoded, FORMATS) == "jpeg"
        plain = drop_jpeg_metadata(encoded) if is_jpeg else encoded
        opened = Image.open(io.BytesIO(plain), formats=("JPEG", "PNG", "GIF", "BMP"))
        opened.draft("RGB", (2 * THUMBNAIL, 2 * THUMBNAIL))  # a JPEG is decoded no larger than it has to be
        # The canvas of a GIF is Pillow's alone, and any size: TensorFlow has looked at the frames.
        check_pixels([opened.size], Limits(max_pixels=MOST_PIXELS))
        image = set_upright(opened.convert("RGB"), read_orientation(find_exif(encoded)) if is_jpeg else 1)
    except Exception:  # Pillow's decoders raise almost anything on what TensorFlow's let pass
        return None
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    if max(image.size) < THUMBNAIL // 2:  # small images such as 8x8 digits, enlarged as they are
        factor = THUMBNAIL // max(image.size)
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    return image
