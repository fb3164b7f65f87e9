"""Decoding inside the graph: image bytes to upright pixels of one size, as TensorFlow operations only."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from components import features
from components.backbones.network import Network
from components.backbones.views import WHOLE
from components.images.stored_pixels import decode_ordinary, decode_upright, find_ordinary

# Images decoded side by side inside one call of the graph.
DECODED_IN_PARALLEL = 16


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

    def cut(image: tf.Tensor) -> tf.Tensor:
        return tf.cond(
            is_whole,
            lambda: resize(image)[None],
            lambda: tf.map_fn(lambda view: resize(cut_view(image, view)), views),
        )

    def fill(images: tf.TensorArray, chosen: tf.Tensor, decode: Callable[[tf.Tensor], tf.Tensor]) -> tf.TensorArray:
        places = tf.cast(tf.where(chosen)[:, 0], tf.int32)

        def write(number: tf.Tensor, images: tf.TensorArray) -> tuple[tf.Tensor, tf.TensorArray]:
            place = places[number]
            return number + 1, images.write(place, cut(decode(image_bytes[place])))

        state = [0, images]
        loop = tf.while_loop(lambda n, _: n < tf.size(places), write, state, parallel_iterations=DECODED_IN_PARALLEL)
        return loop[1]

    # In two loops: of operations that an image does not need each still costs it 0.2 us, and most need few.
    ordinary = find_ordinary(image_bytes)
    images = tf.TensorArray(tf.float32, tf.size(image_bytes), element_shape=[None, size, size, 3])
    images = fill(images, ordinary, decode_ordinary)
    images = fill(images, ~ordinary, decode_upright).concat()
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
