"""Batches of bottlenecks for the head: from memory, or from the shards where they do not fit."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from components.features import BOTTLENECK
from components.shards.bottlenecks import PARSED_IN_PARALLEL, Source, Vectors

EVALUATION_BATCH = 1024
# Training takes 2.1 times the memory of its bottlenecks, of which TensorFlow has a copy. With l2 auto, which also holds
# them scaled, it takes 3.1 times the memory of bottlenecks and scores (peak of resident memory, 40,000 images of 1,280
# numbers, 1,000 classes).
MEMORY_FRACTION = 1 / 5
# Shards that are read in turn, so that a batch mixes them before they are shuffled.
SHARDS_MIXED = 8
# Mount points of control groups (containers and batch systems limit memory by them), versions 2 and 1, and the file of
# a group with its limit in bytes (docs.kernel.org/admin-guide/cgroup-v2, cgroup-v1/memory).
UNIFIED, MEMORY = Path("sys/fs/cgroup"), Path("sys/fs/cgroup/memory")
UNIFIED_LIMIT, MEMORY_LIMIT = "memory.max", "memory.limit_in_bytes"

InputFn = Callable[[], tf.data.Dataset]
Prepare = Callable[[tf.data.Dataset, tf.Tensor], tf.data.Dataset]


class Batches(NamedTuple):
    """An input_fn of ({bottleneck: float32[B, D]}, int64[B]), and the number of batches per pass over the data."""

    input_fn: InputFn
    per_pass: int


def default_memory() -> int:
    """Return the bytes of bottlenecks that are held in memory by default: a fifth of the memory limit."""
    return int(read_memory_limit() * MEMORY_FRACTION)


def read_memory_limit(root: Path = Path("/")) -> int:
    """Return the bytes of memory that this process may use; root is the folder with proc and sys."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    groups = []
    with suppress(OSError):  # no Linux
        groups = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    for group in groups:
        _, controllers, path = group.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        mount, name = (MEMORY, MEMORY_LIMIT) if controllers else (UNIFIED, UNIFIED_LIMIT)
        # The groups above limit a group too. In a container its own is often mounted as the top one.
        parts = Path(path).parts[1:]
        for depth in range(len(parts) + 1):
            with suppress(OSError, ValueError):  # no such file, or "max"
                limits.append(int(root.joinpath(mount, *parts[:depth], name).read_text(encoding="utf-8")))
    return min(limits)


def train_from_memory(vectors: Vectors, epochs: int, batch_size: int, seed: int) -> Batches:
    """Return shuffled batches; every epoch has its own order and one random view of each image."""
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
    count, size = len(labels), EVALUATION_BATCH

    def cut(values: tf.Tensor, labels: tf.Tensor) -> tf.data.Dataset:
        starts = tf.data.Dataset.range(0, count, size)
        return starts.map(lambda start: ({BOTTLENECK: values[start : start + size]}, labels[start : start + size]))

    # Cached batches are slices of the table's own memory.
    return Batches(lambda: _whole(values, labels).flat_map(cut).cache(), math.ceil(count / size))


def _whole(values: np.ndarray, labels: np.ndarray) -> tf.data.Dataset:
    # One element, from a generator and not from tensors: those would be constants of the graph, limited to 2 GB and
    # written with it. Batches are then cut by TensorFlow's threads, without Python's.
    signature = (tf.TensorSpec([None, values.shape[1]], tf.float32), tf.TensorSpec([None], tf.int64))
    return untuned(tf.data.Dataset.from_generator(lambda: [(values, labels)], output_signature=signature))


def untuned(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Return a data set without autotuning, which is of no use here: closing a session would wait for its thread."""
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


def stream_shuffled(files: Sequence[str], epochs: int, seed: int, held: int, prepare: Prepare) -> tf.data.Dataset:
    """Return the elements of all epochs: prepare maps an epoch's serialized records and its seed int64 to elements.

    Each epoch reads several shards at a time, in its own order, and shuffles within a buffer of `held` records.
    """

    def orders() -> Iterator[tuple[np.ndarray, int]]:
        random = np.random.default_rng(seed)
        for _ in range(epochs):
            yield random.permutation(np.array(files)), random.integers(1, 2**62)

    def read(order: tf.Tensor, epoch_seed: tf.Tensor) -> tf.data.Dataset:
        # Within this function: with a global seed of 0, which Keras applications set, shuffle takes no tensor.
        tf.random.set_seed(1)
        records = tf.data.Dataset.from_tensor_slices(order).interleave(tf.data.TFRecordDataset, SHARDS_MIXED)
        return prepare(records.shuffle(held, seed=epoch_seed), epoch_seed)

    signature = (tf.TensorSpec([len(files)], tf.string), tf.TensorSpec([], tf.int64))
    return untuned(tf.data.Dataset.from_generator(orders, output_signature=signature)).flat_map(read)


def train_from_shards(source: Source, epochs: int, batch_size: int, seed: int, memory: int) -> Batches:
    """Return batches as train_from_memory does, but read from the shards in each epoch.

    The shuffle buffer takes half of `memory`, in bytes.
    """
    held = max(min(memory // 2 // max(source.bytes // source.count, 1), source.count), batch_size)

    def draw(step: tf.Tensor, batch: tuple[tf.Tensor, tf.Tensor]) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        vectors, labels = batch
        view = tf.random.stateless_uniform([tf.size(labels)], [seed, step], 0, source.views, tf.int32)
        return {BOTTLENECK: tf.gather(vectors, view, batch_dims=1)}, labels

    def input_fn() -> tf.data.Dataset:
        batches = stream_shuffled(source.files, epochs, seed, held, lambda records, _: records.batch(batch_size))
        return batches.map(source.parse, PARSED_IN_PARALLEL).enumerate().map(draw).prefetch(2)

    return Batches(input_fn, math.ceil(source.count / batch_size))


def evaluate_from_shards(source: Source) -> Batches:
    """Return batches of the served bottlenecks, each once, in order, read from the shards."""
    served = replace(source, views=1)

    def input_fn() -> tf.data.Dataset:
        batches = untuned(tf.data.TFRecordDataset(list(source.files))).batch(EVALUATION_BATCH)
        parsed = batches.map(served.parse, PARSED_IN_PARALLEL)
        return parsed.map(lambda vectors, labels: ({BOTTLENECK: vectors[:, 0]}, labels))

    return Batches(input_fn, math.ceil(source.count / EVALUATION_BATCH))
