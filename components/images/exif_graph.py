"""The EXIF orientation of a JPEG or PNG in TensorFlow operations: reading it as exif.py does, and applying it."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from components.images import exif

# Longer than any read, so that a read at the end of the bytes stays in range.
PADDING = b"\0" * 32

EXIF_PATTERN = r"Exif\x00\x00"

# By orientation 0 to 8 (0 and 1 are upright): whether to transpose, then whether to reverse rows and columns.
TRANSPOSED = [n >= 5 for n in range(9)]
REVERSED = [[(n in (3, 4, 7, 8)), (n in (2, 3, 6, 7)), False] for n in range(9)]


def turn_upright(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Map an image uint8[H, W, 3] as stored and its EXIF orientation int32[], 1 to 8, to the upright image."""

    def turn() -> tf.Tensor:
        axes = tf.where(tf.gather(TRANSPOSED, orientation), [1, 0, 2], [0, 1, 2])
        return tf.raw_ops.Reverse(tensor=tf.transpose(image, axes), dims=tf.gather(REVERSED, orientation))

    return tf.ensure_shape(tf.cond(orientation > 1, turn, lambda: image), [None, None, 3])


def find_orientation(encoded: tf.Tensor) -> tf.Tensor:
    """Map bytes string[] to int32[]: the EXIF orientation, 1 to 8, of a JPEG or PNG, 1 for other bytes."""
    # A single scan of the bytes comes first, because most images have no EXIF.
    return tf.cond(
        tf.equal(tf.strings.substr(encoded, 0, 2), b"\xff\xd8"),
        lambda: tf.cond(
            contains(encoded, EXIF_PATTERN), lambda: _read_tiff_orientation(_find_in_jpeg(encoded)), lambda: 1
        ),
        lambda: tf.cond(
            tf.equal(tf.strings.substr(encoded, 0, 4), exif.PNG_MARK) & contains(encoded, exif.PNG_EXIF.decode()),
            lambda: _read_tiff_orientation(_find_in_png(encoded)),
            lambda: 1,
        ),
    )


def contains(text: tf.Tensor, pattern: str) -> tf.Tensor:
    """Return bool[]: whether a pattern of literals, not empty, occurs in bytes string[].

    A replacement finds the first literal as fast as memory is read; a full match uses an automaton byte by byte.
    """
    without = tf.strings.regex_replace(text, pattern, "", replace_global=False)
    return tf.strings.length(without) < tf.strings.length(text)


def read_numbers(text: tf.Tensor, start: tf.Tensor, count: tf.Tensor, kind: tf.DType, little: bool) -> tf.Tensor:
    """Return count numbers of a dtype in bytes string[] from an offset on, as int32[count]."""
    part = tf.strings.substr(text, start, count * kind.size)
    return tf.cast(tf.io.decode_raw(part, kind, little_endian=little), tf.int32)


def _find_in_jpeg(encoded: tf.Tensor) -> tf.Tensor:
    """Map a JPEG to the TIFF structure in its EXIF segment, string[], empty without one."""

    def read_part(head: tf.Tensor, octets: tf.Tensor) -> tuple[tf.Tensor, ...]:
        is_segment = tf.equal(octets[0], 0xFF) & tf.not_equal(octets[1], exif.START_OF_SCAN)
        found = is_segment & tf.equal(octets[1], exif.APP1) & tf.equal(tf.strings.substr(head, 4, 6), exif.EXIF_MARK)
        return found, is_segment, tf.where(tf.equal(octets[1], exif.FILL), 1, 2 + 256 * octets[2] + octets[3])

    return _walk(encoded, 2, 10, 0, read_part)


def _find_in_png(encoded: tf.Tensor) -> tf.Tensor:
    """Map a PNG to the TIFF structure in its eXIf chunk, string[], empty without one."""

    def read_part(head: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, ...]:
        kind = tf.strings.substr(head, 4, 4)
        length = read_numbers(head, 0, 1, tf.int32, little=False)[0]
        # At most to the end; the length of a chunk of 2 GiB or more is negative here.
        length = tf.where(length < 0, tf.strings.length(encoded), tf.minimum(length, tf.strings.length(encoded)))
        return tf.equal(kind, exif.PNG_EXIF), tf.not_equal(kind, exif.PNG_END), 12 + length

    chunk = _walk(encoded, 8, 8, 4, read_part)
    return tf.strings.regex_replace(chunk, r"\AExif\x00\x00", "", replace_global=False)


def _walk(
    encoded: tf.Tensor, first: int, before: int, after: int, read_part: Callable[..., tuple[tf.Tensor, ...]]
) -> tf.Tensor:
    """Return the first part with EXIF, without its bytes before and after, or empty; first is the offset to start at.

    read_part maps 10 bytes of a part, string[] and int32[10], to whether it is EXIF, whether more parts follow, and its
    length.
    """
    padded, end = tf.strings.join([encoded, PADDING]), tf.strings.length(encoded)

    def step(at: tf.Tensor, *_: tf.Tensor) -> list[tf.Tensor]:
        head = tf.strings.substr(padded, at, 10)
        found, follows, length = read_part(head, tf.cast(tf.io.decode_raw(head, tf.uint8), tf.int32))
        following = tf.minimum(at + length, end)
        return [tf.where(found, at, following), following, found, follows & ~found & (following < end)]

    state = [first, first, False, True]
    at, following, found, more = tf.while_loop(
        lambda *state: state[3], step, state, parallel_iterations=1, maximum_iterations=exif.MAX_EXIF_PARTS
    )
    with tf.control_dependencies([tf.debugging.Assert(~more, [exif.TOO_MANY_PARTS])]):
        length = tf.where(found, tf.maximum(following - at - before - after, 0), 0)
    return tf.strings.substr(padded, tf.where(found, at + before, 0), length)


def _read_tiff_orientation(tiff: tf.Tensor) -> tf.Tensor:
    """Map a TIFF structure string[] to the orientation int32[] in its first directory, 1 if it has none."""
    padded = tf.strings.join([tiff, PADDING])
    little = tf.equal(tf.strings.substr(padded, 0, 4), b"II*\0")
    big = tf.equal(tf.strings.substr(padded, 0, 4), b"MM\0*")

    def numbers(start: tf.Tensor, count: tf.Tensor, kind: tf.DType) -> tf.Tensor:
        return tf.where(little, *(read_numbers(padded, start, count, kind, order) for order in (True, False)))

    last = tf.strings.length(tiff)
    directory = numbers(4, 1, tf.int32)[0]
    directory = tf.where((little | big) & (directory >= 8) & (directory < last), directory, last)
    entries = tf.minimum(numbers(directory, 1, tf.uint16)[0], tf.maximum(last - directory - 2, 0) // 12)
    table = tf.reshape(numbers(directory + 2, 6 * entries, tf.uint16), [-1, 6])  # tag, type, count (2), value (2)
    values = tf.boolean_mask(
        table[:, 4], tf.equal(table[:, 0], exif.ORIENTATION_TAG) & tf.equal(table[:, 1], exif.SHORT)
    )
    value = tf.concat([values, [1]], 0)[0]
    return tf.where((value >= 1) & (value <= 8), value, 1)
