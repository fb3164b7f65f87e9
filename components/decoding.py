"""Decoding inside the graph: image bytes to upright pixels of one size, as TensorFlow operations only."""

from __future__ import annotations

import tensorflow as tf

from components import features
from components.image_headers import APP1, EXIF_MARK, EXIF_WITHIN, ORIENTATION_TAG, SHORT, START_OF_SCAN
from components.network import Network
from components.views import WHOLE

# Images decoded side by side inside one call of the graph.
DECODED_IN_PARALLEL = 16

# More than is read at any place of the bytes before it, so that no place is out of range.
PADDING = b"\0" * 16

# By orientation 0 to 8 (0 and 1 stand upright): is the image transposed, then are its rows and its columns reversed?
TRANSPOSED = [False, False, False, False, False, True, True, True, True]
REVERSED = [[(n in (3, 4, 7, 8)), (n in (2, 3, 6, 7)), False] for n in range(9)]


def add_decoding(image_bytes: tf.Tensor, views: tf.Tensor, network: Network) -> tf.Tensor:
    """Map image_bytes string[N] and views float32[V, 5] to pixels float32[N * V, size, size, 3].

    They are upright, (value - shift) / divisor, and the views of one image stand together.
    """
    size = network.size

    def resize(image: tf.Tensor) -> tf.Tensor:
        if network.legacy_resize:  # the corner-aligned sampling of TensorFlow 1's ResizeBilinear
            return tf.compat.v1.image.resize_bilinear(image[None], [size, size])[0]
        return tf.image.resize(image, [size, size])

    # Decided once: a loop over a single view would cost each image more than a slice of it.
    is_whole = tf.equal(tf.shape(views)[0], 1) & tf.reduce_all(tf.equal(views, WHOLE))

    def decode(encoded: tf.Tensor) -> tf.Tensor:
        image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
        image.set_shape([None, None, 3])
        image = turn_upright(image, find_orientation(encoded))
        return tf.cond(
            is_whole,
            lambda: resize(image)[None],
            lambda: tf.map_fn(lambda view: resize(cut_view(image, view)), views),
        )

    images = tf.map_fn(decode, image_bytes, fn_output_signature=tf.float32, parallel_iterations=DECODED_IN_PARALLEL)
    images = tf.reshape(images, [-1, size, size, 3])
    return tf.multiply(images - network.shift, 1 / network.divisor, features.PIXELS)


def cut_view(image: tf.Tensor, view: tf.Tensor) -> tf.Tensor:
    """Map an image [H, W, 3] and a view float32[5] to the part of it, mirrored if the view is, at least a pixel."""
    sides = tf.shape(image)[:2]
    start = tf.cast(tf.round(view[:2] * tf.cast(sides, tf.float32)), tf.int32)
    start = tf.minimum(start, sides - 1)
    end = tf.maximum(tf.cast(tf.round(view[2:4] * tf.cast(sides, tf.float32)), tf.int32), start + 1)
    part = image[start[0] : end[0], start[1] : end[1]]
    return tf.raw_ops.Reverse(tensor=part, dims=[False, view[4] > 0, False])


def turn_upright(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Map an image uint8[H, W, 3] as stored to how its EXIF orientation int32[] 1 to 8 says it is to be seen."""

    def turn() -> tf.Tensor:
        axes = tf.where(tf.gather(TRANSPOSED, orientation), [1, 0, 2], [0, 1, 2])
        return tf.raw_ops.Reverse(tensor=tf.transpose(image, axes), dims=tf.gather(REVERSED, orientation))

    return tf.ensure_shape(tf.cond(orientation > 1, turn, lambda: image), [None, None, 3])


def find_orientation(encoded: tf.Tensor) -> tf.Tensor:
    """Map any bytes string[] to int32[]: the EXIF orientation 1 to 8 of a JPEG, 1 where there is none or no JPEG."""
    head = tf.strings.substr(encoded, 0, EXIF_WITHIN)
    # A single scan decides, so that the many images without EXIF cost next to nothing.
    may_have = tf.strings.regex_full_match(head, r"\C*Exif\x00\x00\C*")
    return tf.cond(may_have, lambda: read_orientation(_find_exif(encoded, head)), lambda: 1)


def _find_exif(encoded: tf.Tensor, head: tf.Tensor) -> tf.Tensor:
    """Map a JPEG and its head to the TIFF structure in its EXIF segment, string[]; empty where there is none."""
    padded = tf.strings.join([head, PADDING])
    octets = tf.cast(tf.io.decode_raw(padded, tf.uint8), tf.int32)

    def is_exif(at: tf.Tensor) -> tf.Tensor:
        return tf.equal(octets[at + 1], APP1) & tf.equal(tf.strings.substr(padded, at + 4, 6), EXIF_MARK)

    def length(at: tf.Tensor) -> tf.Tensor:  # of a segment, these two bytes included
        return 256 * octets[at + 2] + octets[at + 3]

    def goes_on(at: tf.Tensor) -> tf.Tensor:
        is_segment = tf.equal(octets[at], 0xFF) & tf.not_equal(octets[at + 1], START_OF_SCAN)
        return is_segment & ~is_exif(at)

    def skip(at: tf.Tensor) -> list[tf.Tensor]:
        return [tf.minimum(at + 2 + length(at), tf.strings.length(head))]  # the padding ends the walk

    (at,) = tf.while_loop(goes_on, skip, [2], parallel_iterations=1)
    is_jpeg = tf.equal(tf.strings.substr(padded, 0, 2), b"\xff\xd8")
    found = is_jpeg & tf.equal(octets[at], 0xFF) & is_exif(at)
    start = tf.where(found, at + 10, 0)
    return tf.strings.substr(encoded, start, tf.where(found, tf.maximum(length(at) - 8, 0), 0))


def read_orientation(tiff: tf.Tensor) -> tf.Tensor:
    """Map a TIFF structure string[] to the orientation int32[] in its first directory, 1 where it tells none."""
    padded = tf.strings.join([tiff, PADDING])
    little = tf.equal(tf.strings.substr(padded, 0, 4), b"II*\0")
    big = tf.equal(tf.strings.substr(padded, 0, 4), b"MM\0*")

    def numbers(start: tf.Tensor, count: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
        text = tf.strings.substr(padded, start, count * dtype.size)
        both = [tf.io.decode_raw(text, dtype, little_endian=order) for order in (True, False)]
        return tf.cast(tf.where(little, *both), tf.int32)

    last = tf.strings.length(tiff)
    directory = numbers(4, 1, tf.int32)[0]
    directory = tf.where((little | big) & (directory >= 8) & (directory < last), directory, last)
    entries = tf.minimum(numbers(directory, 1, tf.uint16)[0], tf.maximum(last - directory - 2, 0) // 12)
    table = tf.reshape(numbers(directory + 2, 6 * entries, tf.uint16), [-1, 6])  # tag, type, count (2), value (2)
    values = tf.boolean_mask(table[:, 4], tf.equal(table[:, 0], ORIENTATION_TAG) & tf.equal(table[:, 1], SHORT))
    value = tf.concat([values, [1]], 0)[0]
    return tf.where((value >= 1) & (value <= 8), value, 1)
