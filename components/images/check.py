"""One image file: recognised by content, held to limits by its header, made what TensorFlow reads, decoded once."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from components.images.exif import PNG_MARK, find_exif, read_orientation
from components.images.formats import (
    FORMATS,
    UNREAD_FORMATS,
    Limits,
    check_bytes,
    check_pixels,
    count_scans,
    find_format,
    inflate_png_text,
    is_cut_off,
    read_bmp_size,
    read_gif_canvas,
    read_gif_sizes,
    read_jpeg_size,
    read_png_size,
)
from components.images.stored_pixels import decode_ordinary, decode_stored
from components.images.transcode import make_readable
from components.rejects import CORRUPT, NOT_AN_IMAGE, TOO_LARGE, UNREADABLE, UNSUPPORTED, RejectedImage
from components.storage.places import as_path, is_remote, read_object, read_status
from components.storage.reading import REFUSED, _explain, try_reading

# Each scan of a JPEG goes over the whole image, and 31 bytes make one. Writers make ten or so; libjpeg-turbo's own
# fuzzers stop at 500. 100 million pixels take 0.3 s a scan.
MAX_SCANS = 1000
MAX_SCANNED = 20  # times the pixels that an image may have
# A kilobyte of compressed text in a PNG becomes a megabyte, which libpng unpacks and keeps, of each of 1,000 chunks.
MAX_PNG_TEXT = 16 * 2**20


# Maps encoded images string[N] to int32[N, 3]: height, width, and 1 if all pixels have one colour.
Measure = Callable[[tf.Tensor], tf.Tensor]


class CheckedImage(NamedTuple):
    """An image that the backbone's graph decodes; height and width in pixels as they are stored, not turned."""

    encoded: bytes  # the file's own bytes, a PNG of them, or a CMYK JPEG with its marker
    format: str  # of encoded: jpeg, png, gif or bmp
    found_format: str  # of the file: also webp or tiff
    sha256: str  # of the file's own bytes
    height: int
    width: int
    orientation: int  # 1 to 8 as the file tells, 1 for none; a PNG made of it is upright already
    uniform: bool = False  # all pixels have one colour


def read_file(path: str, limits: Limits) -> bytes:
    """Return the content of a file, local or at a URL that TensorFlow reads; raises as try_reading does."""
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
    if not stat.S_ISREG(status.st_mode):  # reading a pipe would wait for ever
        raise RejectedImage(UNREADABLE, "not a regular file")
    check_bytes(status.st_size, limits)
    with open(path, "rb", buffering=0) as file:
        return file.read()


def check_image(content: bytes, limits: Limits) -> CheckedImage:
    """Decode a file's content once, after its header has shown that it keeps the limits; raises RejectedImage."""
    (checked,) = check_images([content], limits)
    if isinstance(checked, RejectedImage):
        raise checked
    return checked


def check_images(contents: Sequence[bytes], limits: Limits) -> list[CheckedImage | RejectedImage]:
    """Check each content as check_image does; decoding them in one call leaves Python's lock to others meanwhile."""
    images = [_catch(inspect_image, content, limits) for content in contents]
    for is_jpeg, measure_all in ((True, _measure_jpegs), (False, _measure_others)):
        usable = {number: image for number, image in enumerate(images) if isinstance(image, CheckedImage)}
        chosen = {number: image for number, image in usable.items() if (image.format == "jpeg") == is_jpeg}
        if chosen:
            for number, decoded in zip(chosen, _decode_all([*chosen.values()], measure_all), strict=True):
                images[number] = decoded
    return images


def _decode_all(images: Sequence[CheckedImage], measure_all: Measure) -> list[CheckedImage | RejectedImage]:
    try:
        measures = measure_all(tf.constant([image.encoded for image in images])).numpy().tolist()
        return [_catch(_set_measures, *pair) for pair in zip(images, measures, strict=True)]
    except tf.errors.OpError:  # one that cannot be decoded fails all
        return [_catch(_decode_alone, image, measure_all) for image in images]


def _catch(check: Callable[..., CheckedImage], *arguments: Any) -> CheckedImage | RejectedImage:
    try:
        return check(*arguments)
    except RejectedImage as rejected:
        return rejected


def inspect_image(content: bytes, limits: Limits) -> CheckedImage:
    """Return all that can be told of an image without decoding it, its size being 0x0; raises RejectedImage."""
    check_bytes(len(content), limits)
    found_format = find_format(content, FORMATS)
    if found_format is None:
        unread = find_format(content, UNREAD_FORMATS)
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


def _decode_alone(image: CheckedImage, measure_all: Measure) -> CheckedImage:
    try:
        (measures,) = measure_all(tf.constant([image.encoded])).numpy().tolist()
    except tf.errors.ResourceExhaustedError:  # says nothing of the image
        raise
    except tf.errors.OpError as error:
        words = _explain(error)
        refused = REFUSED.fullmatch(words)
        if refused:
            raise RejectedImage(UNSUPPORTED, refused[1]) from error
        raise RejectedImage(CORRUPT, f"damaged {image.format.upper()}: {words}") from error
    return _set_measures(image, measures)


def _set_measures(image: CheckedImage, measures: Sequence[int]) -> CheckedImage:
    height, width, uniform = measures
    if not height or not width:
        raise RejectedImage(CORRUPT, f"{width}x{height} pixels")
    return image._replace(height=height, width=width, uniform=bool(uniform))


def _measure_by(decode: Callable[[tf.Tensor], tf.Tensor]) -> Measure:
    """Return what measures images that decode maps, one of them, to pixels uint8[H, W, 3]."""

    def measure_one(encoded: tf.Tensor) -> tf.Tensor:
        image = decode(encoded)

        def is_all(part: tf.Tensor) -> tf.Tensor:
            return tf.reduce_all(tf.equal(part, image[0, 0]))

        # Of most images the middle row tells.
        uniform = tf.cond(is_all(image[tf.shape(image)[0] // 2]), lambda: is_all(image), lambda: False)
        return tf.concat([tf.shape(image)[:2], [tf.cast(uniform, tf.int32)]], 0)

    # One after the other: the callers' threads are those that share the cores.
    return tf.function(
        lambda contents: tf.map_fn(measure_one, contents, fn_output_signature=tf.int32, parallel_iterations=1),
        input_signature=[tf.TensorSpec([None], tf.string)],
        autograph=False,
    )


# Most images are JPEGs, whose marker and orientation were looked at above; what others need would cost each of them.
_measure_jpegs, _measure_others = _measure_by(decode_ordinary), _measure_by(decode_stored)


def count_pixels(image: CheckedImage) -> int:
    """Return how many pixels the header of an inspected image claims, of all its frames and a GIF's canvas."""
    return sum(width * height for width, height in _read_sizes(image.encoded, image.format))


def _read_sizes(encoded: bytes, image_format: str) -> Iterable[tuple[int, int]]:
    """Return the (width, height) of every frame; raises OpError for a damaged JPEG."""
    if image_format == "jpeg":
        width, height = read_jpeg_size(encoded) or tf.image.extract_jpeg_shape(encoded).numpy().tolist()[1::-1]
        return [(width, height)]
    if image_format == "gif":  # TensorFlow decodes all frames of a GIF, though it uses the first alone
        return read_gif_sizes(encoded)
    return [read_png_size(encoded) if image_format == "png" else read_bmp_size(encoded)]


def _check_header(encoded: bytes, image_format: str, limits: Limits) -> None:
    """Raise RejectedImage for what would take TensorFlow too much memory or time, and OpError for a damaged JPEG."""
    if image_format == "jpeg" and is_cut_off(encoded):
        raise RejectedImage(CORRUPT, "damaged JPEG: its end is missing")
    sizes = _read_sizes(encoded, image_format)
    check_pixels(sizes, limits)
    if image_format == "jpeg":
        ((width, height),) = sizes
        scans = count_scans(encoded)
        if scans > MAX_SCANS:
            raise RejectedImage(TOO_LARGE, f"more than {MAX_SCANS:,} scans")
        if scans * width * height > MAX_SCANNED * limits.max_pixels:
            allowed = f"more than {MAX_SCANNED} of the most pixels allowed"
            raise RejectedImage(TOO_LARGE, f"{scans} scans of {width}x{height} pixels, {allowed}")
    elif image_format == "gif":
        check_pixels([read_gif_canvas(encoded)], limits)
    elif image_format == "png" and inflate_png_text(encoded, MAX_PNG_TEXT) > MAX_PNG_TEXT:
        raise RejectedImage(TOO_LARGE, f"its text unpacks to more than {MAX_PNG_TEXT:,} bytes")
