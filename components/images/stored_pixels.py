"""The pixels of a JPEG, PNG, GIF or BMP in TensorFlow operations, with transparent parts on white.

TensorFlow's decoders alone drop the alpha of a PNG, paint the transparent parts of a GIF black and crop its canvas,
read CMYK without Adobe's marker as not inverted, and read the palette of a BMP as pixels.
"""

from __future__ import annotations

import tensorflow as tf

from components.images.exif_graph import EXIF_PATTERN, PADDING, contains, find_orientation, read_numbers, turn_upright
from components.images.formats import ADOBE_MARKER, LEAST_BRIGHT, MAX_GIF_BLOCKS, describe_dark

BMP_REFUSED = "a BMP with a palette, masks or compression: convert it to PNG, or give it to topgraft predict"
GIF_REFUSED = f"more than {MAX_GIF_BLOCKS:,} blocks stand before the first image of a GIF: save it anew"
CANVAS_REFUSED = "the canvas of a GIF is too large: crop it"
MAX_CANVAS = 2**29  # pixels, the limit of TensorFlow's decoder for PNG
# A JPEG of fewer bytes has, but for drawings of few colours, less than a million pixels.
LARGE_JPEG = 100_000  # bytes


def decode_stored(encoded: tf.Tensor, least_side: int | None = None) -> tf.Tensor:
    """Map a JPEG, PNG, GIF (its first frame) or BMP string[] to its stored pixels uint8[H, W, 3] on white.

    A JPEG is decoded at 1/2, 1/4 or 1/8 of its size where both sides then have at least least_side pixels. Raises
    InvalidArgumentError for other bytes and for images that TensorFlow misreads or that are too dark in 16 bits.
    """
    start = tf.strings.substr(encoded, 0, 3)
    image = tf.cond(
        tf.equal(start, b"\xff\xd8\xff"),
        lambda: _decode_jpeg(encoded, least_side),
        lambda: tf.cond(
            tf.equal(start, b"\x89PN"),
            lambda: _decode_png(encoded),
            lambda: tf.cond(tf.equal(start, b"GIF"), lambda: _decode_gif(encoded), lambda: _decode_other(encoded)),
        ),
    )
    return tf.ensure_shape(image, [None, None, 3])


def find_ordinary(image_bytes: tf.Tensor) -> tf.Tensor:
    """Map encoded images string[N] to bool[N]: whether each is a small JPEG without EXIF and four components."""
    is_jpeg = tf.equal(tf.strings.substr(image_bytes, 0, 3), b"\xff\xd8\xff")
    # T.81, B.2.2: the frame's length and precision, its height and width, and its number of components.
    has_four = contains(image_bytes, r"\x00\x14\x08\C\C\C\C\x04")
    is_small = tf.strings.length(image_bytes) < LARGE_JPEG
    return is_jpeg & is_small & ~has_four & ~contains(image_bytes, EXIF_PATTERN)


def decode_ordinary(encoded: tf.Tensor) -> tf.Tensor:
    """Map an image string[] that TensorFlow decodes correctly to uint8[H, W, 3]."""
    image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
    return tf.ensure_shape(image, [None, None, 3])


def _decode_jpeg(encoded: tf.Tensor, least_side: int | None) -> tf.Tensor:
    def decode_cmyk() -> tf.Tensor:
        rest = tf.strings.substr(encoded, 2, tf.strings.length(encoded))
        marked = tf.strings.join([b"\xff\xd8", ADOBE_MARKER, rest])
        # Four inks multiply the error of the fast method, TensorFlow's default.
        return tf.io.decode_jpeg(marked, channels=3, dct_method="INTEGER_ACCURATE")

    height, width, components = tf.unstack(tf.image.extract_jpeg_shape(encoded))

    def decode_at(ratio: int) -> tf.Tensor:
        if ratio == 1 or least_side is None:
            return decode_ordinary(encoded)
        # Libjpeg scales while it decodes: of 12 million pixels it computes one in 16 or 64.
        return tf.cond(
            tf.minimum(height, width) >= ratio * least_side,
            lambda: tf.io.decode_jpeg(encoded, channels=3, ratio=ratio),
            lambda: decode_at(ratio // 2),
        )

    return tf.cond(tf.equal(components, 4), decode_cmyk, lambda: decode_at(8))


def _decode_png(encoded: tf.Tensor) -> tf.Tensor:
    header = tf.strings.substr(tf.strings.join([encoded, PADDING]), 24, 2)
    depth, colours = tf.unstack(tf.io.decode_raw(header, tf.uint8), 2)

    def decode_transparent() -> tf.Tensor:
        image = tf.io.decode_png(encoded, channels=4)
        with tf.control_dependencies([_check_bits(image, depth)]):
            return _put_on_white(image)

    may_be_transparent = (colours >= 4) | contains(encoded, "tRNS")
    return tf.cond(may_be_transparent | (depth > 8), decode_transparent, lambda: tf.io.decode_png(encoded, channels=3))


def _check_bits(image: tf.Tensor, depth: tf.Tensor) -> tf.Operation:
    """Return an assertion against a 16-bit image uint8[H, W, 4] with all colours, or all alpha, below LEAST_BRIGHT."""
    brightest = tf.cast(tf.minimum(tf.reduce_max(image[..., :3]), tf.reduce_max(image[..., 3])), tf.int32)
    sentence = tf.gather(
        [describe_dark(value) for value in range(LEAST_BRIGHT)], tf.minimum(brightest, LEAST_BRIGHT - 1)
    )
    return tf.debugging.Assert((depth <= 8) | (brightest >= LEAST_BRIGHT), [sentence])


def _put_on_white(image: tf.Tensor) -> tf.Tensor:
    """Map an image uint8[H, W, 4] with alpha to uint8[H, W, 3] on white."""
    colours, alpha = image[..., :3], image[..., 3:]

    def blend() -> tf.Tensor:
        colour, opacity = tf.cast(colours, tf.uint16), tf.cast(alpha, tf.uint16)
        return tf.cast((colour * opacity + 255 * (255 - opacity) + 127) // 255, tf.uint8)

    return tf.cond(tf.reduce_min(alpha) < 255, blend, lambda: colours)


def _decode_gif(encoded: tf.Tensor) -> tf.Tensor:
    """Decode the first frame of a GIF at its position on the canvas, with white for transparent parts.

    TensorFlow's canvas is only as large as the largest frame, so the frame is moved to its corner and then cropped.
    """
    padded, end = tf.strings.join([encoded, PADDING]), tf.strings.length(encoded)

    def octets(at: tf.Tensor, count: int) -> list[tf.Tensor]:
        return tf.unstack(read_numbers(padded, at, count, tf.uint8, little=True), count)

    def shorts(at: tf.Tensor, count: int) -> list[tf.Tensor]:
        return tf.unstack(read_numbers(padded, at, count, tf.uint16, little=True), count)

    def palette(flags: tf.Tensor) -> tf.Tensor:  # the number of colours
        return tf.where(flags >= 128, tf.bitwise.left_shift(2, flags % 8), 0)

    def step(at: tf.Tensor, control: tf.Tensor, inside: tf.Tensor, _: tf.Tensor) -> list[tf.Tensor]:
        first, second = octets(at, 2)
        begins = ~inside & tf.equal(first, ord("!"))  # an extension: two bytes, then its blocks of data
        length = tf.where(inside, 1 + first, tf.where(begins, 2, 0))
        following = tf.minimum(at + length, end)
        control = tf.where(begins & tf.equal(second, 0xF9) & tf.equal(control, 0), at, control)
        return [following, control, begins | inside & (first > 0), (begins | inside) & (following < end)]

    all_colours = palette(octets(10, 1)[0])
    at, control, _, more = tf.while_loop(
        lambda *state: state[3],
        step,
        [tf.minimum(13 + 3 * all_colours, end), 0, False, True],
        parallel_iterations=1,
        maximum_iterations=MAX_GIF_BLOCKS,
    )
    left, top, width, height = shorts(at + 1, 4)
    own_colours = palette(octets(at + 9, 1)[0])
    colours = tf.where(own_colours > 0, own_colours, all_colours)
    flags, _, _, transparent = octets(control + 3, 4)
    is_transparent = (control > 0) & tf.equal(flags % 2, 1)
    whitened = is_transparent & (transparent < colours)
    place = tf.where(own_colours > 0, at + 10, 13) + 3 * transparent
    moved = _replace(encoded, at + 1, b"\0\0\0\0", True)
    opaque = _replace(moved, control + 3, b"\0", is_transparent)
    white = _replace(opaque, place, b"\xff\xff\xff", whitened)
    frame = decode_ordinary(white)[:height, :width]
    canvas_width, canvas_height = shorts(6, 2)
    below = tf.maximum(canvas_height - top - height, 0)
    beside = tf.maximum(canvas_width - left - width, 0)
    fits = (top + height + below) <= MAX_CANVAS // tf.maximum(left + width + beside, 1)
    refused = tf.debugging.Assert(~more, [GIF_REFUSED])
    with tf.control_dependencies([frame]):  # of damaged bytes the decoder's error is more precise
        too_large = tf.debugging.Assert(fits, [CANVAS_REFUSED])
    with tf.control_dependencies([refused, too_large]):
        return tf.pad(frame, [[top, below], [left, beside], [0, 0]], constant_values=255)


def _replace(text: tf.Tensor, at: tf.Tensor, part: bytes, wanted: tf.Tensor | bool) -> tf.Tensor:
    """Return bytes string[] with a part written at an offset, or unchanged if it is not wanted or does not fit."""
    end = tf.strings.length(text)
    fits = tf.logical_and(wanted, at + len(part) <= end)
    start = tf.where(fits, at, 0)
    rest = start + tf.where(fits, len(part), 0)
    return tf.strings.join(
        [tf.strings.substr(text, 0, start), tf.where(fits, part, b""), tf.strings.substr(text, rest, end)]
    )


def _decode_other(encoded: tf.Tensor) -> tf.Tensor:
    """Decode a BMP that formats.is_plain_bmp accepts; raises InvalidArgumentError for other bytes."""
    head = tf.strings.substr(tf.strings.join([encoded, PADDING, PADDING]), 10, 24)
    fields = tf.unstack(tf.cast(tf.io.decode_raw(head, tf.int32), tf.int64), 6)
    start, header, width, height, depth, compression = fields
    bits = depth // 2**16
    row = (bits // 8 * width + 3) // 4 * 4
    fits = tf.equal(start + row * tf.abs(height), tf.cast(tf.strings.length(encoded), tf.int64))
    plain = (header >= 40) & (tf.equal(bits, 24) | tf.equal(bits, 32)) & tf.equal(compression, 0) & fits
    is_bmp = tf.equal(tf.strings.substr(encoded, 0, 2), b"BM")
    with tf.control_dependencies([tf.debugging.Assert(plain | ~is_bmp, [BMP_REFUSED])]):
        return decode_ordinary(encoded)


def decode_upright(encoded: tf.Tensor, least_side: int | None = None) -> tf.Tensor:
    """Map a JPEG, PNG, GIF or BMP string[] to its upright pixels uint8[H, W, 3] on white; see decode_stored."""
    return turn_upright(decode_stored(encoded, least_side), find_orientation(encoded))
