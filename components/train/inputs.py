"""What the head is trained and evaluated on: bottlenecks from memory, or from the shards where they do not fit."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from components.features import BOTTLENECK, BOTTLENECK_VIEWS, LABEL
from components.shards.records import check_count, naming_damage
from components.train.memory_limit import read_memory_limit

EVALUATION_BATCH = 1024
# Images that are measured at a time: the copies of so many, in float64, take about 100 MB.
PART = 8192
# Training takes 2.1 times the memory of its bottlenecks, of which TensorFlow has a copy. With l2 auto, which holds them
# scaled as well, it takes 3.1 times the memory of bottlenecks and scores (peak of resident memory, 40,000 images of
# 1,280 numbers, 1,000 classes).
MEMORY_SHARE = 1 / 5
# Batches that are parsed side by side.
PARSED_IN_PARALLEL = 4
# Shards that are read in turn, so that a batch mixes them before they are shuffled.
SHARDS_MIXED = 8

InputFn = Callable[[], tf.data.Dataset]


class Batches(NamedTuple):
    """An input_fn of ({bottleneck: float32[B, D]}, int64[B]), and how many batches one pass over the data has."""

    input_fn: InputFn
    per_pass: int


@dataclass(frozen=True)
class Source:
    """The shards of one split: how many images they hold, and the width and number of views of their bottlenecks."""

    files: Sequence[str]
    count: int
    dim: int
    views: int

    @property
    def bytes(self) -> int:
        """What they take in memory."""
        return self.count * self.views * self.dim * 4


class Vectors(NamedTuple):
    """Bottlenecks in memory: those of all views float32[N, V, D], and labels int64[N]."""

    values: np.ndarray
    labels: np.ndarray

    def parts(self) -> Iterator[Vectors]:
        """Yield the same, some images at a time: what is computed of these takes little memory."""
        for start in range(0, len(self.labels), PART):
            yield Vectors(*(array[start : start + PART] for array in self))

    def select(self, rows: np.ndarray) -> Vectors:
        """Return the same for some of the images."""
        return Vectors(self.values[rows], self.labels[rows])


def default_memory() -> int:
    """Return how many bytes of bottlenecks are held by default: a fifth of what this process may use."""
    return int(read_memory_limit() * MEMORY_SHARE)


def load_vectors(source: Source) -> Vectors:
    """Read the bottlenecks of all views into memory; raises DamagedShard for a damaged file."""
    values = np.empty((source.count, source.views, source.dim), np.float32)
    labels = np.empty(source.count, np.int64)
    end = 0
    for part in read_vectors(source):
        start, end = end, end + len(part.labels)
        if end <= source.count:
            values[start:end], labels[start:end] = part
    check_count(end, source.count, os.path.dirname(source.files[0]))
    return Vectors(values, labels)


def read_vectors(source: Source) -> Iterator[Vectors]:
    """Yield the bottlenecks of all views, some at a time, in file order; raises DamagedShard for a damaged file."""
    batches = tf.data.TFRecordDataset(list(source.files)).batch(max(EVALUATION_BATCH // source.views, 1))
    with naming_damage(source.files):
        for batch in batches.map(_parser(source), PARSED_IN_PARALLEL).prefetch(2).as_numpy_iterator():
            yield Vectors(*batch)


def train_from_memory(vectors: Vectors, epochs: int, batch_size: int, seed: int) -> Batches:
    """Return shuffled batches; every epoch sees one view, drawn at random, of each image, in an order of its own."""
    count, views, dim = vectors.values.shape

    def draws() -> Iterator[np.ndarray]:
        random = np.random.default_rng(seed)
        for _ in range(epochs):
            order = random.permutation(count) * views
            yield order + random.integers(0, views, count) if views > 1 else order

    def gather(values: tf.Tensor, labels: tf.Tensor) -> tf.data.Dataset:
        of_epochs = tf.data.Dataset.from_generator(draws, output_signature=tf.TensorSpec([count], tf.int64))
        starts = tf.data.Dataset.range(0, count, batch_size)
        rows = of_epochs.flat_map(lambda epoch: starts.map(lambda start: epoch[start : start + batch_size]))
        return rows.map(lambda batch: ({BOTTLENECK: tf.gather(values, batch)}, tf.gather(labels, batch // views)))

    flat = vectors.values.reshape(count * views, dim)
    return Batches(lambda: _whole(flat, vectors.labels).flat_map(gather).prefetch(2), math.ceil(count / batch_size))


def evaluate_from_memory(values: np.ndarray, labels: np.ndarray) -> Batches:
    """Return batches of bottlenecks float32[N, D] with labels int64[N], each once, in order."""

    count = len(labels)

    def cut(values: tf.Tensor, labels: tf.Tensor) -> tf.data.Dataset:
        starts = tf.data.Dataset.range(0, count, EVALUATION_BATCH)
        return starts.map(
            lambda start: (
                {BOTTLENECK: values[start : start + EVALUATION_BATCH]},
                labels[start : start + EVALUATION_BATCH],
            )
        )

    # Cached batches are slices of the table's own memory.
    return Batches(lambda: _whole(values, labels).flat_map(cut).cache(), math.ceil(count / EVALUATION_BATCH))


def _whole(values: np.ndarray, labels: np.ndarray) -> tf.data.Dataset:
    # One element, from a generator and not from tensors: those would be constants of the graph, limited to 2 GB and
    # written with it. Batches are then cut by TensorFlow's threads, without Python's.
    signature = (tf.TensorSpec([None, values.shape[1]], tf.float32), tf.TensorSpec([None], tf.int64))
    whole = tf.data.Dataset.from_generator(lambda: [(values, labels)], output_signature=signature)
    return whole.with_options(_options())


def _options() -> tf.data.Options:
    options = tf.data.Options()
    options.autotune.enabled = False  # nothing here can be tuned, and closing a session waits for the tuner's thread
    return options


def train_from_shards(source: Source, epochs: int, batch_size: int, seed: int, memory: int) -> Batches:
    """Return shuffled batches as train_from_memory does, but read from the shards in each epoch.

    Shards are taken in an order of each epoch's own, several at a time, and shuffled within as many records as fit
    half of the memory, in bytes.
    """
    files = np.array(source.files)
    held = max(min(memory // 2 // max(source.bytes // source.count, 1), source.count), batch_size)
    parse = _parser(source)

    def orders() -> Iterator[tuple[np.ndarray, int]]:
        random = np.random.default_rng(seed)
        for _ in range(epochs):
            yield random.permutation(files), random.integers(1, 2**62)

    def read(order: tf.Tensor, epoch_seed: tf.Tensor) -> tf.data.Dataset:
        # Within this function: beside a global seed of 0, which Keras applications set, shuffle takes no tensor.
        tf.random.set_seed(1)
        records = tf.data.Dataset.from_tensor_slices(order).interleave(tf.data.TFRecordDataset, SHARDS_MIXED)
        return records.shuffle(held, seed=epoch_seed).batch(batch_size)

    def draw(step: tf.Tensor, batch: tuple[tf.Tensor, tf.Tensor]) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        vectors, labels = batch
        view = tf.random.stateless_uniform([tf.size(labels)], [seed, step], 0, source.views, tf.int32)
        return {BOTTLENECK: tf.gather(vectors, view, batch_dims=1)}, labels

    def input_fn() -> tf.data.Dataset:
        signature = (tf.TensorSpec([len(files)], tf.string), tf.TensorSpec([], tf.int64))
        of_epochs = tf.data.Dataset.from_generator(orders, output_signature=signature)
        batches = of_epochs.flat_map(read).map(parse, PARSED_IN_PARALLEL)
        return batches.enumerate().map(draw).prefetch(2).with_options(_options())

    return Batches(input_fn, math.ceil(source.count / batch_size))


def evaluate_from_shards(source: Source) -> Batches:
    """Return batches of the bottlenecks that serving sees, each once, in order, read from the shards."""
    parse = _parser(source, BOTTLENECK)

    def input_fn() -> tf.data.Dataset:
        batches = tf.data.TFRecordDataset(list(source.files)).batch(EVALUATION_BATCH).map(parse, PARSED_IN_PARALLEL)
        return batches.map(lambda vectors, labels: ({BOTTLENECK: vectors[:, 0]}, labels)).with_options(_options())

    return Batches(input_fn, math.ceil(source.count / EVALUATION_BATCH))


def _parser(source: Source, name: str = "") -> Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]:
    # A record of one view holds it once, as the bottleneck that serving sees.
    name = name or (BOTTLENECK_VIEWS if source.views > 1 else BOTTLENECK)
    views = source.views if name == BOTTLENECK_VIEWS else 1
    spec = {
        name: tf.io.FixedLenFeature([views, source.dim], tf.float32),
        LABEL: tf.io.FixedLenFeature([], tf.int64),
    }

    def parse(serialized: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        parsed = tf.io.parse_example(serialized, spec)
        return parsed[name], parsed[LABEL]

    return parse
