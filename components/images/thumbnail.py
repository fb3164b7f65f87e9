"""A small picture of an encoded image."""

from __future__ import annotations

import io

import tensorflow as tf
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from components.images.check import inspect_image
from components.images.exif import find_exif, read_orientation
from components.images.formats import FORMATS, Limits, check_pixels, drop_jpeg_metadata, find_format
from components.images.stored_pixels import decode_upright
from components.images.transcode import set_upright

THUMBNAIL = 160  # pixels, the longer side
LIMITS = Limits()  # of what is decoded for one, whatever the run allows


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
