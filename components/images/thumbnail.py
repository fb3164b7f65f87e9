"""A small picture of an encoded image."""

from __future__ import annotations

import io

import tensorflow as tf
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from components.images.check import inspect_image
from components.images.exif import find_exif, read_orientation
from components.images.formats import READ_FORMATS, Limits, check_pixels, drop_jpeg_metadata, find_format
from components.images.stored_pixels import decode_upright
from components.images.transcode import set_upright

THUMBNAIL = 160  # pixels, the longer side
LIMITS = Limits()  # of a decoded image, independent of the limits of the run

# It has no Python to translate, which would take a second.
_decode_upright = tf.function(decode_upright, input_signature=[tf.TensorSpec([], tf.string)], autograph=False)


def make_thumbnail(encoded: bytes) -> Image.Image | None:
    """Return an encoded image as the model sees it, THUMBNAIL pixels at its longer side; None for a damaged one."""
    try:
        if find_format(encoded, READ_FORMATS) == "jpeg":
            image = _shrink_jpeg(encoded)
        else:
            image = Image.fromarray(_decode_upright(inspect_image(encoded, LIMITS).encoded).numpy())
    except Exception:  # Pillow's decoders raise errors of many kinds for images that TensorFlow decodes
        return None
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    if max(image.size) < THUMBNAIL // 2:  # small images such as 8x8 digits are enlarged by whole pixels
        factor = THUMBNAIL // max(image.size)
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    return image


def _shrink_jpeg(jpeg: bytes) -> Image.Image:
    """Return a JPEG decoded at a reduced size, which TensorFlow cannot do."""
    # Pillow copies the data of each EXIF tag: a thousand tags on one megabyte take a gigabyte. Image.open has a pixel
    # limit for the whole process.
    opened = JpegImageFile(io.BytesIO(drop_jpeg_metadata(jpeg)))
    opened.draft("RGB", (2 * THUMBNAIL, 2 * THUMBNAIL))
    check_pixels([opened.size], LIMITS)
    return set_upright(opened.convert("RGB"), read_orientation(find_exif(jpeg)))
