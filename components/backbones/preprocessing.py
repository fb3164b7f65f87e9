"""Decoding in the graph: image bytes to upright pixels of one size, with TensorFlow operations only."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from components import features
from components.backbones.network import Network, Resize
from components.backbones.views import WHOLE
from components.images.stored_pixels import decode_ordinary, decode_upright, find_ordinary

# Images decoded at the same time in one call of the graph.
PARALLEL_IMAGES = 16
# A large JPEG is decoded at a part of its size, at least this many times the side of the network's input. Twice that
# side must remain of a crop of the default side.
LEAST_SCALE = 2.5


def add_decoding(image_bytes: tf.Tensor, views: tf.Tensor, network: Network) -> tf.Tensor:
    """Map image_bytes string[N] and views float32[V, 5] to pixels float32[N * V, size, size, 3], image by image.

    The pixels are upright and (value - shift) / divisor.
    """
    size = network.size

    def resize(image: tf.Tensor) -> tf.Tensor:
        if network.resize:
            return resize_and_crop(image, network.resize, size)
        if network.legacy_resize:  # the corner-aligned sampling of TensorFlow 1's ResizeBilinear
            return tf.compat.v1.image.resize_bilinear(image[None], [size, size])[0]
        return tf.image.resize(image, [size, size])

    # Decided once per batch: for each image, a loop over a single view would be slower than no loop.
    is_whole = tf.equal(tf.shape(views)[0], 1) & tf.reduce_all(tf.equal(views, WHOLE))

    def cut(image: tf.Tensor) -> tf.Tensor:
        return tf.cond(
            is_whole,
            lambda: resize(image)[None],
            lambda: tf.map_fn(lambda view: resize(cut_view(image, view)), views),
        )

    def fill(images: tf.TensorArray, chosen: tf.Tensor, decode: Callable[[tf.Tensor], tf.Tensor]) -> tf.TensorArray:
        rows = tf.cast(tf.where(chosen)[:, 0], tf.int32)

        def write(number: tf.Tensor, images: tf.TensorArray) -> tuple[tf.Tensor, tf.TensorArray]:
            row = rows[number]
            return number + 1, images.write(row, cut(decode(image_bytes[row])))

        state = [0, images]
        return tf.while_loop(lambda n, _: n < tf.size(rows), write, state, parallel_iterations=PARALLEL_IMAGES)[1]

    # Two loops: each operation that an image does not use still costs it 0.2 us, and most images use few.
    ordinary = find_ordinary(image_bytes)
    images = tf.TensorArray(tf.float32, tf.size(image_bytes), element_shape=[None, size, size, 3])
    images = fill(images, ordinary, decode_accurately if network.resize else decode_ordinary)
    least_side = math.ceil(LEAST_SCALE * size)
    images = fill(images, ~ordinary, lambda encoded: decode_upright(encoded, least_side)).concat()
    images = tf.reshape(images, [-1, size, size, 3])
    return tf.multiply(images - network.shift, np.float32(1 / np.float64(network.divisor)), features.PIXELS)


def decode_accurately(encoded: tf.Tensor) -> tf.Tensor:
    """Map a JPEG string[] that TensorFlow decodes correctly to the pixels uint8[H, W, 3] that Pillow has of it."""
    return tf.ensure_shape(tf.io.decode_jpeg(encoded, 3, dct_method="INTEGER_ACCURATE"), [None, None, 3])


def resize_and_crop(image: tf.Tensor, resize: Resize, size: int) -> tf.Tensor:
    """Map an image uint8[H, W, 3] to whole values 0 to 255, float32[size, size, 3]: resized, then the centre."""
    sides = tf.shape(image, tf.int64)[:2]
    edges = sides * resize.edge // tf.reduce_min(sides)  # a fraction of a pixel of the longer side is dropped
    edges = tf.constant([resize.edge] * 2, tf.int64) if resize.is_square else edges
    pixels = tf.raw_ops.ScaleAndTranslate(
        images=image[None],
        size=[size, size],
        scale=tf.cast(edges / sides, tf.float32),
        translation=tf.cast(-((edges - size) // 2), tf.float32),
        kernel_type=resize.kernel,
        antialias=True,
    )
    return tf.round(tf.clip_by_value(pixels[0], 0, 255))


def cut_view(image: tf.Tensor, view: tf.Tensor) -> tf.Tensor:
    """Map an image [H, W, 3] and a view float32[5] to the part in the view, at least one pixel, mirrored if view[4]."""
    sides = tf.shape(image)[:2]
    corners = tf.cast(tf.round(tf.reshape(view[:4], [2, 2]) * tf.cast(sides, tf.float32)), tf.int32)
    start = tf.minimum(corners[0], sides - 1)
    end = tf.maximum(corners[1], start + 1)
    part = image[start[0] : end[0], start[1] : end[1]]
    return tf.raw_ops.Reverse(tensor=part, dims=[False, view[4] > 0, False])
