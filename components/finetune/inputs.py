"""Batches of pixels for fine-tuning: images streamed from the example shards."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from PIL import Image

from components.backbones.views import WHOLE
from components.features import ENCODED, IMAGE_BYTES, LABEL, PIXELS, VIEWS
from components.finetune.settings import Distortion
from components.shards.records import IMAGE_SPEC
from components.train.inputs import Batches, stream_shuffled, untuned

v1 = tf.compat.v1

IMAGE_BATCH = 64
DECODING_THREADS = os.cpu_count() or 1
# Shuffle buffer of encoded images, in bytes; shards are mixed before that.
SHUFFLED_BYTES = 256 << 20
# Crops are up to this much taller or wider than the image, as in the training of Inception (Szegedy et al. 2014).
STRETCH = 4 / 3

RECORD_SPEC = {name: IMAGE_SPEC[name] for name in (ENCODED, LABEL)}


@dataclass(frozen=True)
class ImageSource:
    """The shards of one split, their number of images, and the canonical graph that decodes them."""

    files: Sequence[str]
    count: int
    graph_def: Any


class Decoder(NamedTuple):
    """Maps an encoded image and its view float32[5] to pixels float32[size, size, 3] between black and white."""

    decode: Callable[[bytes, np.ndarray], np.ndarray]
    size: int
    black: float
    white: float


def load_decoder(graph_def: Any) -> Decoder:
    """Return the part of a canonical graph before its network.

    It runs in its own session, called from the data set's threads: the graph has version 1 loops, which a data set's
    function cannot have.
    """
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(v1.graph_util.extract_sub_graph(graph_def, [PIXELS]), name="")
    # In the caller's thread: there are as many callers as cores, and other threads cost a fifth more.
    config = v1.ConfigProto(inter_op_parallelism_threads=-1, device_count={"GPU": 0})
    run = v1.Session(graph=graph, config=config).make_callable(f"{PIXELS}:0", [f"{IMAGE_BYTES}:0", f"{VIEWS}:0"])

    def decode(encoded: bytes, view: np.ndarray) -> np.ndarray:
        pixels: np.ndarray = run([encoded], view[None])[0]
        return pixels

    black, white = (float(decode(_encode(colour), WHOLE[0]).max()) for colour in ("black", "white"))
    return Decoder(decode, graph.get_tensor_by_name(f"{PIXELS}:0").shape[1], black, white)


def _encode(colour: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (1, 1), colour).save(file, "PNG")
    return file.getvalue()


def train_images(source: ImageSource, distortion: Distortion, epochs: int, batch_size: int, seed: int) -> Batches:
    """Return shuffled batches ({pixels: float32[B, S, S, 3]}, int64[B]); every epoch sees each image once, distorted.

    Equal seeds give equal batches.
    """

    def input_fn() -> tf.data.Dataset:
        decoder = load_decoder(source.graph_def)
        stored = sum(tf.io.gfile.stat(file).length for file in source.files)
        held = min(max(SHUFFLED_BYTES * source.count // stored, batch_size), source.count)

        def prepare(records: tf.data.Dataset, epoch_seed: tf.Tensor) -> tf.data.Dataset:
            def see(position: tf.Tensor, record: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
                draws = tf.random.stateless_uniform([8], [epoch_seed, position])
                features, label = _read_image(record, draw_view(draws[:5], distortion), decoder)
                if distortion.colour:
                    features = {PIXELS: change_colours(features[PIXELS], draws[5:], distortion.colour, decoder)}
                return features, label

            return records.enumerate().map(see, DECODING_THREADS).batch(batch_size)

        return stream_shuffled(source.files, epochs, seed, held, prepare).prefetch(2)

    return Batches(input_fn, math.ceil(source.count / batch_size))


def evaluate_images(source: ImageSource) -> Batches:
    """Return batches ({pixels: float32[B, S, S, 3]}, int64[B]) of each whole image once, in order."""

    def input_fn() -> tf.data.Dataset:
        decoder = load_decoder(source.graph_def)
        images = untuned(tf.data.TFRecordDataset(list(source.files))).map(
            lambda record: _read_image(record, tf.constant(WHOLE[0]), decoder), DECODING_THREADS
        )
        return images.batch(IMAGE_BATCH).prefetch(2)

    return Batches(input_fn, math.ceil(source.count / IMAGE_BATCH))


def _read_image(record: tf.Tensor, view: tf.Tensor, decoder: Decoder) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
    parsed = tf.io.parse_single_example(record, RECORD_SPEC)
    pixels = tf.numpy_function(decoder.decode, [parsed[ENCODED], view], tf.float32)
    return {PIXELS: tf.ensure_shape(pixels, [decoder.size, decoder.size, 3])}, parsed[LABEL]


def draw_view(draws: tf.Tensor, distortion: Distortion) -> tf.Tensor:
    """Map draws float32[5] from [0, 1) to a view float32[5]: a part of an image, mirrored or not."""
    area = distortion.crop + (1 - distortion.crop) * draws[0]
    # More stretch would make a side longer than the image's.
    stretch = tf.exp((draws[1] - 0.5) * tf.minimum(math.log(STRETCH), -tf.math.log(area)))
    height, width = tf.sqrt(area) * stretch, tf.sqrt(area) / stretch
    top, left = draws[2] * (1 - height), draws[3] * (1 - width)
    mirrored = tf.cast(draws[4] < 0.5 * distortion.flip, tf.float32)
    return tf.stack([top, left, top + height, left + width, mirrored])


def change_colours(pixels: tf.Tensor, draws: tf.Tensor, colour: float, decoder: Decoder) -> tf.Tensor:
    """Map pixels float32[S, S, 3] and draws float32[3] from [0, 1) to pixels of other colours.

    Brightness, contrast and saturation each change by a factor from 1 - colour to 1 + colour: of the values, of their
    distance to the mean grey, and of that to each pixel's own grey. Values are clipped at black and white.
    """
    brightness, contrast, saturation = tf.unstack(1 + colour * (2 * draws - 1))
    image = (pixels - decoder.black) / (decoder.white - decoder.black) * brightness
    mean = tf.reduce_mean(tf.image.rgb_to_grayscale(image))
    image = mean + (image - mean) * contrast
    grey = tf.image.rgb_to_grayscale(image)
    image = tf.clip_by_value(grey + (image - grey) * saturation, 0, 1)
    return decoder.black + image * (decoder.white - decoder.black)
