"""Make a PNG, without loss, of what TensorFlow does not read or would misread: WebP, TIFF and some BMPs."""

from __future__ import annotations

import io
import struct
import zlib

from PIL import Image, UnidentifiedImageError
from PIL.Image import Transpose
from PIL.TiffImagePlugin import TiffImageFile
from PIL.TiffTags import TAGS_V2_GROUPS

from components.image_headers import (
    EXIF_MARK,
    FORMATS,
    Limits,
    check_pixels,
    count_tag_values,
    find_format,
    is_plain_bmp,
    read_orientation,
)
from components.rejects import CORRUPT, UNSUPPORTED, RejectedImage

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


def make_readable(content: bytes, limits: Limits) -> bytes:
    """Return as a PNG, without loss, the first page of a WebP, a TIFF or a BMP that TensorFlow would misread, upright;
    all else unchanged; raises RejectedImage."""
    if find_format(content, TRANSCODED) is None or (content.startswith(b"BM") and is_plain_bmp(content)):
        return content
    try:
        return _make_png(content, limits)
    except (RejectedImage, MemoryError):
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
        check_pixels([image.size], limits)
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
    orientation = read_orientation(image.info.get("exif", b"").removeprefix(EXIF_MARK))
    return set_upright(image, orientation)


def set_upright(image: Image.Image, orientation: int) -> Image.Image:
    """Return an image as its EXIF orientation 1 to 8 says it is to be seen."""
    return image.transpose(TURNS[orientation]) if orientation in TURNS else image
