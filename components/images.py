"""One image file: recognised by content, held to limits by its header, made what TensorFlow reads, decoded once."""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import tensorflow as tf
from PIL import Image, UnidentifiedImageError
from PIL.Image import Transpose
from PIL.TiffImagePlugin import TiffImageFile
from PIL.TiffTags import TAGS_V2_GROUPS

from components.decoding import EXIF_MARK, EXIF_WITHIN, find_orientation, read_orientation
from components.image_headers import (
    FORMATS,
    UNREAD_FORMATS,
    count_scans,
    count_tag_values,
    find_format,
    is_plain_bmp,
    read_bmp_size,
    read_gif_sizes,
    read_png_size,
)
from components.rejects import (
    CORRUPT,
    DUPLICATE,  # noqa: F401
    EMPTY,
    NOT_AN_IMAGE,
    TOO_LARGE,
    UNREADABLE,
    UNSUPPORTED,
    Reject,  # noqa: F401
    RejectedImage,
)

# Each scan of a JPEG goes over the whole image, and 31 bytes make one. Writers make ten or so; libjpeg-turbo's own
# fuzzers stop at 500.
MAX_SCANS = 1000

# The PNG mode that holds each mode of Pillow's. 16-bit colour is RGB already: Pillow reads its upper 8 bits, as
# TensorFlow does of a PNG's. Not here are I and F: no PNG holds their 32 bits.
PNG_MODES = {
    **{mode: mode for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16", "I;16B")},
    **{"PA": "RGBA", "RGBa": "RGBA", "RGBX": "RGB", "CMYK": "RGB", "YCbCr": "RGB"},
}

# Through Pillow goes what TensorFlow does not read, or may misread.
TRANSCODED = {name: FORMATS[name] for name in ("webp", "tiff", "bmp")}

# TIFF 6.0, section 8. Bit 0 of NewSubfileType marks a page as a small version of another, as in cameras' raw files.
IMAGE_LENGTH, NEW_SUBFILE_TYPE, REDUCED = 257, 254, 1

# What sets an image upright by its orientation (EXIF 2.3, 4.6.4).
TURNS = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}

# Limits are checked here, from the header and by the user's own numbers.
Image.MAX_IMAGE_PIXELS = None

# The rule of the backbone's graph itself, so that no two rules can differ.
_find_orientation = tf.function(find_orientation, input_signature=[tf.TensorSpec([], tf.string)])
_read_orientation = tf.function(read_orientation, input_signature=[tf.TensorSpec([], tf.string)])


@dataclass(frozen=True)
class Limits:
    """What one image may have at most; the pixels are those of all its frames."""

    max_bytes: int = 64 * 2**20
    max_pixels: int = 100_000_000


class CheckedImage(NamedTuple):
    """An image that TensorFlow decodes; height and width in pixels as tf.io.decode_image gives them, not turned."""

    encoded: bytes  # the file's own bytes, or a PNG of them
    format: str  # of encoded: jpeg, png, gif or bmp
    found_format: str  # of the file: also webp or tiff
    sha256: str  # of the file's own bytes
    height: int
    width: int
    orientation: int  # EXIF's 1 to 8 of a JPEG as the backbone's graph finds it, 1 for none


def read_file(path: str, limits: Limits) -> bytes:
    """Return the content of a file, local or at a URL that TensorFlow reads; raises RejectedImage."""
    try:
        if "://" in path:
            _check_bytes(tf.io.gfile.stat(path).length, limits)
            with tf.io.gfile.GFile(path, "rb") as remote:
                content: bytes = remote.read()
            return content
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):  # reading a pipe would wait for ever
            raise RejectedImage(UNREADABLE, "not a regular file")
        _check_bytes(status.st_size, limits)
        with open(path, "rb", buffering=0) as file:
            return file.read()
    except OSError as error:
        raise RejectedImage(UNREADABLE, error.strerror or str(error)) from error
    except tf.errors.OpError as error:
        raise RejectedImage(UNREADABLE, _explain(error)) from error


def check_image(content: bytes, limits: Limits) -> CheckedImage:
    """Decode a file's content once, after its header has shown that it keeps the limits; raises RejectedImage."""
    _check_bytes(len(content), limits)
    found_format = find_format(content, FORMATS)
    if found_format is None:
        unread = find_format(content, UNREAD_FORMATS)
        if unread:
            raise RejectedImage(UNSUPPORTED, f"{unread}, which TensorFlow does not read: convert it to JPEG")
        raise RejectedImage(NOT_AN_IMAGE, f"starts with {content[:8]!r}")
    encoded = make_readable(content, limits)
    image_format = found_format if encoded is content else "png"
    try:
        _check_header(encoded, image_format, limits)
        height, width, _ = tf.io.decode_image(encoded, channels=3, expand_animations=False).shape
    except tf.errors.OpError as error:
        raise RejectedImage(CORRUPT, f"damaged {image_format.upper()}: {_explain(error)}") from error
    if not height or not width:
        raise RejectedImage(CORRUPT, f"{width}x{height} pixels")
    may_be_turned = image_format == "jpeg" and EXIF_MARK in content[:EXIF_WITHIN]
    orientation = int(_find_orientation(content)) if may_be_turned else 1
    sha256 = hashlib.sha256(content).hexdigest()
    return CheckedImage(encoded, image_format, found_format, sha256, height, width, orientation)


def make_readable(content: bytes, limits: Limits) -> bytes:
    """Return as a PNG, without loss, the first page of a WebP, a TIFF or a BMP that TensorFlow would misread, upright;
    all else unchanged; raises RejectedImage."""
    if find_format(content, TRANSCODED) is None or (content.startswith(b"BM") and is_plain_bmp(content)):
        return content
    try:
        return _make_png(content, limits)
    except RejectedImage:
        raise
    except (UnidentifiedImageError, struct.error) as error:
        raise RejectedImage(CORRUPT, "its header is damaged, or of a kind that Pillow does not read") from error
    except Exception as error:  # Pillow's decoders raise almost anything on damaged files
        message = (str(error) or type(error).__name__).split("\n")[0][:200]
        raise RejectedImage(CORRUPT, f"damaged, Pillow says: {message}") from error


def _make_png(content: bytes, limits: Limits) -> bytes:
    # Pillow copies what each tag points to: a thousand that share one megabyte would take a gigabyte.
    if content.startswith((b"II", b"MM")) and count_tag_values(content) > len(content):
        raise RejectedImage(CORRUPT, "its tags claim more than the file holds")
    with Image.open(io.BytesIO(content), formats=("WEBP", "TIFF", "BMP")) as image:
        _check_pixels([image.size], limits)
        if image.mode not in PNG_MODES:
            raise RejectedImage(UNSUPPORTED, f"pixels of the mode {image.mode}, which no PNG holds: convert it to JPEG")
        upright = _prepare_tiff(image) if isinstance(image, TiffImageFile) else _turn_upright(image)
        png = io.BytesIO()
        # Of photos, Z_RLE makes files 1 % larger in a quarter of the time of zlib's default (500x313 pixels: 7 ms).
        upright.convert(PNG_MODES[image.mode]).save(png, "PNG", compress_type=zlib.Z_RLE, icc_profile=None)
        return png.getvalue()


def _prepare_tiff(image: TiffImageFile) -> TiffImageFile:
    """Return an opened TIFF, which Pillow itself sets upright, when its first page is the image and is all there."""
    if image.tag_v2.get(NEW_SUBFILE_TYPE, 0) & REDUCED:
        raise RejectedImage(UNSUPPORTED, "a camera's raw file, which TensorFlow does not read: convert it to JPEG")
    if max((extents[3] for _, extents, *_ in image.tile if extents), default=0) < image.tag_v2[IMAGE_LENGTH]:
        raise RejectedImage(CORRUPT, "its pixels end before its last row")  # Pillow would leave the rest black
    for directory in TAGS_V2_GROUPS:  # Pillow would read them, and their tags were not counted
        image.getexif().pop(directory, None)
    return image


def _turn_upright(image: Image.Image) -> Image.Image:
    """Return an opened WebP as its EXIF orientation says it is to be seen."""
    orientation = int(_read_orientation(image.info.get("exif", b"").removeprefix(EXIF_MARK)))
    return image.transpose(TURNS[orientation]) if orientation in TURNS else image


def _check_bytes(size: int, limits: Limits) -> None:
    if not size:
        raise RejectedImage(EMPTY, "0 bytes")
    if size > limits.max_bytes:
        raise RejectedImage(TOO_LARGE, f"{size:,} bytes, more than the {limits.max_bytes:,} allowed")


def _check_header(encoded: bytes, image_format: str, limits: Limits) -> None:
    """Raise RejectedImage for what would take TensorFlow too much memory or time, and OpError for a damaged JPEG."""
    if image_format == "jpeg":
        height, width, _ = tf.image.extract_jpeg_shape(encoded).numpy().tolist()
        _check_pixels([(width, height)], limits)
        if count_scans(encoded) > MAX_SCANS:
            raise RejectedImage(TOO_LARGE, f"more than {MAX_SCANS:,} scans")
    elif image_format == "png":
        _check_pixels([read_png_size(encoded)], limits)
    elif image_format == "bmp":
        _check_pixels([read_bmp_size(encoded)], limits)
    else:  # TensorFlow decodes all frames of a GIF, though it uses the first alone
        _check_pixels(read_gif_sizes(encoded), limits)


def _check_pixels(sizes: Iterable[tuple[int, int]], limits: Limits) -> None:
    """Raise RejectedImage where frames (width, height), or the canvas that holds them all, have too many pixels."""
    width = height = pixels = 0
    for frames, size in enumerate(sizes, 1):
        width, height = max(width, size[0]), max(height, size[1])
        pixels += size[0] * size[1]
        if max(pixels, width * height) > limits.max_pixels:
            words = f" in {frames} frames" if frames > 1 else ""
            allowed = f"{limits.max_pixels:,} allowed"
            raise RejectedImage(TOO_LARGE, f"{width}x{height} pixels{words}, more than the {allowed}")


def _explain(error: tf.errors.OpError) -> str:
    """Return TensorFlow's own words, one line, without the names of its operations."""
    message = (error.message or type(error).__name__).split("\n")[0]
    return re.sub(r"\{\{.*?\}\}|\[Op:.*", "", message).strip(" .")[:200]
