"""Small pictures of images, read from the shards of examples."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import tensorflow as tf
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from components import features
from components.backbones.preprocessing import decode_upright
from components.images.check import inspect_image
from components.images.exif import find_exif, read_orientation
from components.images.formats import FORMATS, Limits, check_pixels, drop_jpeg_metadata, find_format
from components.images.transcode import set_upright
from components.shards.index import read_index
from components.shards.names import index_name, shard_name
from components.shards.records import IMAGE_SPEC, read_batches
from components.shards.spans import list_shards
from components.storage.tables import decode_name, escape_name

THUMBNAIL = 160  # pixels, the longer side
LIMITS = Limits()  # of what is decoded for one, whatever the run allows


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
    """Return an encoded image as the model sees it, THUMBNAIL pixels at its longer side; None for what is not read."""
    try:
        is_jpeg = find_format(encoded, FORMATS) == "jpeg"
        image = _shrink_jpeg(encoded) if is_jpeg else _decode(encoded)
    except Exception:  # Pillow's decoders raise almost anything on what TensorFlow's let pass
        return None
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    if max(image.size) < THUMBNAIL // 2:  # small images such as 8x8 digits, enlarged as they are
        factor = THUMBNAIL // max(image.size)
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    return image


def _shrink_jpeg(jpeg: bytes) -> Image.Image:
    """Decode a JPEG no larger than it has to be, which TensorFlow cannot."""
    # Pillow takes all that tags of EXIF point to, and one megabyte that a thousand share is a gigabyte. Not Image.open:
    # its limit of pixels is the whole process's.
    opened = JpegImageFile(io.BytesIO(drop_jpeg_metadata(jpeg)))
    opened.draft("RGB", (2 * THUMBNAIL, 2 * THUMBNAIL))
    check_pixels([opened.size], LIMITS)
    return set_upright(opened.convert("RGB"), read_orientation(find_exif(jpeg)))


def _decode(encoded: bytes) -> Image.Image:
    return Image.fromarray(_decode_upright(inspect_image(encoded, LIMITS).encoded).numpy())


_decode_upright = tf.function(decode_upright, input_signature=[tf.TensorSpec([], tf.string)])
