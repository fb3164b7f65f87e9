"""Check an image file: find its format, compare its header with limits, convert it for TensorFlow, decode it once."""

from __future__ import annotations

import hashlib
import os
import stat
import struct
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import tensorflow as tf

from components.images import formats
from components.images.exif import PNG_MARK, find_exif, read_orientation
from components.images.formats import Limits, check_bytes, check_pixels
from components.images.stored_pixels import decode_ordinary, decode_stored
from components.images.transcode import make_readable
from components.rejects import CORRUPT, NOT_AN_IMAGE, TOO_LARGE, UNREADABLE, UNSUPPORTED, RejectedImage
from components.storage.places import as_path, is_remote, read_object, read_status
from components.storage.reading import REFUSED, _explain, try_reading

# Each scan of a JPEG covers the whole image and may have only 31 bytes. Writers make about ten; libjpeg-turbo's own
# fuzzers stop at 500. 100 million pixels take 0.3 s per scan.
MAX_SCANS = 1000
MAX_SCANNED = 20  # times the limit of pixels
# libpng unpacks the text of up to 1,000 chunks of a PNG; a kilobyte of it becomes a megabyte.
MAX_PNG_TEXT = 16 * 2**20


# Maps encoded images string[N] to int32[N, 3]: height, width, and 1 if all pixels have one colour.
DecodeSizes = Callable[[tf.Tensor], tf.Tensor]


class CheckedImage(NamedTuple):
    """An image that the graph of the backbone decodes; height and width are those of the stored pixels, not upright."""

    encoded: bytes  # the bytes of the file, or of the PNG or marked CMYK JPEG made of it
    format: str  # of encoded: jpeg, png, gif or bmp
    found_format: str  # of the file: also webp or tiff
    sha256: str  # of the bytes of the file
    height: int
    width: int
    orientation: int  # 1 to 8 in the EXIF of the file, 1 without EXIF; a PNG made of it is already upright
    uniform: bool = False  # all pixels have one colour


def read_file(path: str, limits: Limits) -> bytes:
    """Return the content of a local file or of a URL that TensorFlow reads; raises as try_reading does."""
    return try_reading(lambda: _read_file(path, limits), path)


def _read_file(path: str, limits: Limits) -> bytes:
    if is_remote(path):
        check_bytes(read_status(as_path(path)).size, limits)
        return read_object(path)
    if "://" in path:
        check_bytes(tf.io.gfile.stat(path).length, limits)
        with tf.io.gfile.GFile(path, "rb") as remote:
            content: bytes = remote.read()
        return content
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):  # reading a pipe may never end
        raise RejectedImage(UNREADABLE, "not a regular file")
    check_bytes(status.st_size, limits)
    with open(path, "rb", buffering=0) as file:
        return file.read()


def check_image(content: bytes, limits: Limits) -> CheckedImage:
    """Return the checked image of a file's content, decoded once; raises RejectedImage, also above the limits."""
    (checked,) = check_images([content], limits)
    if isinstance(checked, RejectedImage):
        raise checked
    return checked


def check_images(contents: Sequence[bytes], limits: Limits) -> list[CheckedImage | RejectedImage]:
    """Check each content as check_image does; all are decoded in one call, during which other threads can run."""
    images = [_inspect(content, limits) for content in contents]
    for is_jpeg, decode_sizes in ((True, _decode_jpegs), (False, _decode_others)):
        usable = {number: image for number, image in enumerate(images) if isinstance(image, CheckedImage)}
        chosen = {number: image for number, image in usable.items() if (image.format == "jpeg") == is_jpeg}
        if chosen:
            for number, decoded in zip(chosen, _decode_all([*chosen.values()], decode_sizes), strict=True):
                images[number] = decoded
    return images


def _decode_all(images: Sequence[CheckedImage], decode_sizes: DecodeSizes) -> list[CheckedImage | RejectedImage]:
    try:
        sizes = decode_sizes(tf.constant([image.encoded for image in images])).numpy().tolist()
    except tf.errors.OpError as error:
        if len(images) > 1:  # one damaged image fails all
            return [checked for image in images for checked in _decode_all([image], decode_sizes)]
        if isinstance(error, tf.errors.ResourceExhaustedError):  # an error of the machine, not of the image
            raise
        words = _explain(error)
        refused = REFUSED.fullmatch(words)
        damage = f"damaged {images[0].format.upper()}: {words}"
        return [RejectedImage(UNSUPPORTED, refused[1]) if refused else RejectedImage(CORRUPT, damage)]
    return [
        image._replace(height=height, width=width, uniform=bool(uniform))
        if height and width
        else RejectedImage(CORRUPT, f"{width}x{height} pixels")
        for image, (height, width, uniform) in zip(images, sizes, strict=True)
    ]


def _inspect(content: bytes, limits: Limits) -> CheckedImage | RejectedImage:
    try:
        return inspect_image(content, limits)
    except RejectedImage as rejected:
        return rejected


def inspect_image(content: bytes, limits: Limits) -> CheckedImage:
    """Return a checked image without decoding it, with size 0x0; raises RejectedImage."""
    check_bytes(len(content), limits)
    found_format = formats.find_format(content, formats.READ_FORMATS)
    if found_format is None:
        unread = formats.find_format(content, formats.UNREAD_FORMATS)
        if unread:
            raise RejectedImage(UNSUPPORTED, f"{unread}, which TensorFlow does not read: convert it to JPEG")
        raise RejectedImage(NOT_AN_IMAGE, f"starts with {content[:8]!r}")
    encoded = make_readable(content, limits)
    image_format = "png" if encoded.startswith(PNG_MARK) else found_format
    try:
        _check_header(encoded, image_format, limits)
    except tf.errors.OpError as error:
        raise RejectedImage(CORRUPT, f"damaged {image_format.upper()}: {_explain(error)}") from error
    orientation = read_orientation(find_exif(content))
    return CheckedImage(encoded, image_format, found_format, hashlib.sha256(content).hexdigest(), 0, 0, orientation)


def _make_decoder(decode_one: Callable[[tf.Tensor], tf.Tensor]) -> DecodeSizes:
    """Return a function that decodes N images; decode_one maps an image string[] to int32[3]."""
    # One after another, because the threads of the callers already use all cores.
    return tf.function(
        lambda contents: tf.map_fn(decode_one, contents, fn_output_signature=tf.int32, parallel_iterations=1),
        input_signature=[tf.TensorSpec([None], tf.string)],
        autograph=False,
    )


def _measure_jpeg(encoded: tf.Tensor) -> tf.Tensor:
    # All of the data is read at any scale, and at this one the pixels take a fraction of the time.
    small = tf.io.decode_jpeg(encoded, channels=3, ratio=8)
    uniform = tf.cond(_is_uniform(small), lambda: _is_uniform(decode_ordinary(encoded)), lambda: False)
    return _describe_size(tf.image.extract_jpeg_shape(encoded), uniform)


def _measure_other(encoded: tf.Tensor) -> tf.Tensor:
    image = decode_stored(encoded)
    return _describe_size(tf.shape(image), _is_uniform(image))


def _describe_size(shape: tf.Tensor, uniform: tf.Tensor) -> tf.Tensor:
    return tf.concat([shape[:2], [tf.cast(uniform, tf.int32)]], 0)


def _is_uniform(image: tf.Tensor) -> tf.Tensor:
    def is_all(part: tf.Tensor) -> tf.Tensor:
        return tf.reduce_all(tf.equal(part, image[0, 0]))

    # In most images the middle row has several colours already.
    return tf.cond(is_all(image[tf.shape(image)[0] // 2]), lambda: is_all(image), lambda: False)


# inspect_image has read the marker and orientation of JPEGs, which are most images, so they need no further operations.
_decode_jpegs, _decode_others = _make_decoder(_measure_jpeg), _make_decoder(_measure_other)


def count_pixels(image: CheckedImage) -> int:
    """Return the number of pixels of all frames in the headers of an inspected image."""
    return sum(width * height for width, height in _read_sizes(image.encoded, image.format))


def _read_sizes(encoded: bytes, image_format: str) -> Iterable[tuple[int, int]]:
    """Return the (width, height) of every frame; raises OpError for a damaged JPEG."""
    if image_format == "jpeg":
        width, height = formats.read_jpeg_size(encoded) or tf.image.extract_jpeg_shape(encoded).numpy().tolist()[1::-1]
        return [(width, height)]
    if image_format == "gif":  # TensorFlow decodes all frames of a GIF and uses only the first
        return ((width, height) for _, _, width, height in formats.list_gif_frames(encoded))
    if image_format == "png":
        return [struct.unpack(">II", encoded[16:24].ljust(8, b"\0"))]
    width, height = struct.unpack("<ii", encoded[18:26].ljust(8, b"\0"))
    return [(width, abs(height))]  # in a BMP, a negative height means rows from the top


def _check_header(encoded: bytes, image_format: str, limits: Limits) -> None:
    """Raise RejectedImage if decoding would take too much memory or time, and OpError for a damaged JPEG."""
    if image_format == "jpeg" and formats.is_cut_off(encoded):
        raise RejectedImage(CORRUPT, "damaged JPEG: its end is missing")
    sizes = _read_sizes(encoded, image_format)
    check_pixels(sizes, limits)
    if image_format == "jpeg":
        ((width, height),) = sizes
        scans = formats.count_scans(encoded)
        if scans > MAX_SCANS:
            raise RejectedImage(TOO_LARGE, f"more than {MAX_SCANS:,} scans")
        if scans * width * height > MAX_SCANNED * limits.max_pixels:
            allowed = f"more than {MAX_SCANNED} times the {limits.max_pixels:,} allowed"
            raise RejectedImage(TOO_LARGE, f"{scans} scans of {width}x{height} pixels, {allowed}")
    elif image_format == "gif":
        check_pixels([formats.read_gif_canvas(encoded)], limits)
    elif image_format == "png" and formats.inflate_png_text(encoded, MAX_PNG_TEXT) > MAX_PNG_TEXT:
        raise RejectedImage(TOO_LARGE, f"its text unpacks to more than {MAX_PNG_TEXT:,} bytes")
