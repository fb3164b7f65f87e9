"""Convert images that TensorFlow does not read or misreads, without loss: WebP, TIFF, some BMPs, unmarked CMYK."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.Image import Transpose
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.TiffTags import TAGS_V2_GROUPS
from PIL.WebPImagePlugin import WebPImageFile

from components.images import formats
from components.images.exif import find_exif, read_orientation
from components.images.formats import Limits
from components.rejects import CORRUPT, UNSUPPORTED, RejectedImage

# The PNG mode for each mode of Pillow. 16-bit colour is RGB here: Pillow reads its upper 8 bits, as TensorFlow does for
# PNG. I and F are absent, because no PNG has 32 bits.
PNG_MODES = {
    **{mode: mode for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16", "I;16B")},
    **{"PA": "RGBA", "RGBa": "RGBA", "RGBX": "RGB", "CMYK": "RGB", "YCbCr": "RGB"},
}

# Formats that Pillow decodes. Image.open has a limit of pixels for the whole process; these classes have none, and
# _make_png checks the user's limit.
PLUGINS: dict[str, type[ImageFile]] = {"webp": WebPImageFile, "tiff": TiffImageFile, "bmp": BmpImageFile}

# TIFF 6.0, section 8. Bit 0 of NewSubfileType marks a page as a small version of another, as in cameras' raw files.
NEW_SUBFILE_TYPE, IMAGE_WIDTH, IMAGE_LENGTH, BITS, PHOTOMETRIC, PLANES = 254, 256, 257, 258, 262, 284
REDUCED, WHITE_IS_ZERO, SEPARATE = 1, 0, 2

# The operation that makes an image upright, by its orientation (EXIF 2.3, 4.6.4).
TURNS = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}


def make_readable(content: bytes, limits: Limits) -> bytes:
    """Return an image file in a form that TensorFlow decodes correctly; raises RejectedImage.

    The first page of a WebP, a TIFF or a BMP that TensorFlow would misread becomes an upright PNG without loss. A CMYK
    JPEG gets Adobe's marker. Other content stays unchanged.
    """
    found_format = formats.find_format(content, formats.READ_FORMATS)
    if found_format == "jpeg":
        return formats.mark_cmyk(content)
    if found_format not in PLUGINS or (found_format == "bmp" and formats.is_plain_bmp(content)):
        return content
    try:
        return _make_png(content, PLUGINS[found_format], limits)
    except (RejectedImage, MemoryError):
        raise
    except (SyntaxError, struct.error) as error:
        raise RejectedImage(CORRUPT, "its header is damaged, or Pillow does not support it") from error
    except Exception as error:  # Pillow's decoders raise errors of many kinds for damaged files
        message = (str(error) or type(error).__name__).split("\n")[0][:200]
        raise RejectedImage(CORRUPT, f"damaged, Pillow says: {message}") from error


def _make_png(content: bytes, plugin: type[ImageFile], limits: Limits) -> bytes:
    # Pillow copies the data of each tag: a thousand tags on one megabyte take a gigabyte.
    if plugin is TiffImageFile and formats.count_tag_values(content) > len(content):
        raise RejectedImage(CORRUPT, "its tags claim more than the file contains")
    with plugin(io.BytesIO(content)) as image:
        formats.check_pixels([image.size], limits)
        if image.mode not in PNG_MODES:
            raise RejectedImage(
                UNSUPPORTED, f"pixels of the mode {image.mode}, which PNG does not support: convert it to JPEG"
            )
        upright = _prepare(image, content).convert(PNG_MODES[image.mode])
        png = io.BytesIO()
        # Of photos, Z_RLE makes files 1 % larger in a quarter of the time of zlib's default (500x313 pixels: 7 ms).
        upright.save(png, "PNG", compress_type=zlib.Z_RLE, icc_profile=None)
        return png.getvalue()


def _prepare(image: ImageFile, content: bytes) -> Image.Image:
    """Return an opened image upright, with the values that its writer meant."""
    if isinstance(image, TiffImageFile):
        return _prepare_tiff(image)
    if isinstance(image, BmpImageFile) and image.mode == "RGBA" and not image.getchannel("A").getextrema()[1]:
        return image.convert("RGB")  # its writer left the alpha empty; browsers ignore it too
    return set_upright(image, read_orientation(find_exif(content)))


def _prepare_tiff(image: TiffImageFile) -> Image.Image:
    """Return an opened TIFF upright, as Pillow reads it; raises RejectedImage unless its first page is complete."""
    if image.tag_v2.get(NEW_SUBFILE_TYPE, 0) & REDUCED:
        raise RejectedImage(UNSUPPORTED, "a camera's raw file, which TensorFlow does not read: convert it to JPEG")
    if max((extents[3] for _, extents, *_ in image.tile if extents), default=0) < image.tag_v2[IMAGE_LENGTH]:
        raise RejectedImage(CORRUPT, "its pixels end before its last row")  # Pillow would leave the rest black
    for directory in TAGS_V2_GROUPS:  # Pillow would read them, but count_tag_values does not count their tags
        image.getexif().pop(directory, None)
    bits, white_is_zero = max(image.tag_v2.get(BITS, (1,))), image.tag_v2.get(PHOTOMETRIC) == WHITE_IS_ZERO
    if bits > 8 and image.tag_v2.get(PLANES) == SEPARATE and len(image.getbands()) > 1:
        raise RejectedImage(UNSUPPORTED, "16-bit colours in separate planes, which Pillow misreads: save it as 8 bits")
    # Without an image here, loading would create one and check the limit of pixels for the whole process.
    image.im = Image.core.new(image.mode, (image.tag_v2[IMAGE_WIDTH], image.tag_v2[IMAGE_LENGTH]))
    image.load()
    if image.mode.startswith("I;16"):  # decoding the PNG checks whether its bits are used
        return (
            Image.fromarray(65535 - np.asarray(image)) if white_is_zero else image
        )  # Pillow inverts fewer bits itself
    if bits > 8:
        *colours, last = np.asarray(image).reshape(-1, len(image.getbands())).max(0).tolist()
        brightest = min(max(colours), last) if image.mode == "RGBA" else max(*colours, last)
        if brightest < formats.LEAST_BRIGHT:
            raise RejectedImage(UNSUPPORTED, formats.describe_dark(brightest))
    return image


def set_upright(image: Image.Image, orientation: int) -> Image.Image:
    """Return an image as stored, with its EXIF orientation 1 to 8, upright."""
    return image.transpose(TURNS[orientation]) if orientation in TURNS else image
