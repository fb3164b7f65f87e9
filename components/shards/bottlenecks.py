"""Read bottleneck shards: the vectors and labels of a split, or complete tables with keys and checksums."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from components.features import BOTTLENECK, BOTTLENECK_VIEWS, KEY, LABEL, SHA256, SOURCE, TEXT
from components.shards.records import META_SPEC, check_count, naming_damage, read_batches
from components.shards.spans import hash_fraction

# Vectors parsed per batch, and batches parsed at the same time.
VECTORS_PER_BATCH = 1024
PARSED_IN_PARALLEL = 4
# Images per part: the float64 copies of so many take about 100 MB.
PART = 8192


@dataclass(frozen=True)
class Source:
    """The shards of one split: number of images, width of the bottlenecks, and number of views per image."""

    files: Sequence[str]
    count: int
    dim: int
    views: int

    @property
    def bytes(self) -> int:
        """The memory of the bottlenecks in bytes."""
        return self.count * self.views * self.dim * 4

    def parts(self) -> Iterator[Vectors]:
        """Yield the bottlenecks of all views in batches, in file order; raises DamagedShard for a damaged file."""
        records = tf.data.TFRecordDataset(list(self.files)).batch(max(VECTORS_PER_BATCH // self.views, 1))
        with naming_damage(self.files):
            for part in records.map(self.parse, PARSED_IN_PARALLEL).prefetch(2).as_numpy_iterator():
                yield Vectors(*part)

    def parse(self, records: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Map serialized records string[B] to the bottlenecks of all views float32[B, V, D] and labels int64[B]."""
        # A record with one view has it only as the served bottleneck.
        name = BOTTLENECK_VIEWS if self.views > 1 else BOTTLENECK
        vectors = tf.io.FixedLenFeature([self.views, self.dim], tf.float32)
        parsed = tf.io.parse_example(records, {name: vectors, LABEL: META_SPEC[LABEL]})
        return parsed[name], parsed[LABEL]


class Vectors(NamedTuple):
    """Bottlenecks in memory: values of all views float32[N, V, D], and labels int64[N]."""

    values: np.ndarray
    labels: np.ndarray

    def parts(self) -> Iterator[Vectors]:
        """Yield the vectors of up to PART images at a time, to limit the memory of computations."""
        for start in range(0, len(self.labels), PART):
            yield self.cut(start, start + PART)

    def cut(self, first: int, end: int) -> Vectors:
        """Return the vectors of images in a range, without a copy."""
        return Vectors(*(array[first:end] for array in self))

    def select(self, rows: np.ndarray) -> Vectors:
        """Return the vectors of some images."""
        return Vectors(self.values[rows], self.labels[rows])


@dataclass(frozen=True)
class BottleneckTable:
    """The bottlenecks of some shards in memory, in file order.

    vectors float32[N, D] are the served bottlenecks, views float32[N, V, D] those of all views, labels is int64[N].
    """

    keys: list[str]
    sha256: list[bytes]
    vectors: np.ndarray
    views: np.ndarray
    labels: np.ndarray
    texts: list[str]
    sources: list[str]


def load_vectors(source: Source) -> Vectors:
    """Return the bottlenecks of all views; raises DamagedShard for a damaged file, UserError for another count."""
    parts = list(source.parts())
    check_count(sum(len(part.labels) for part in parts), source.count, os.path.dirname(source.files[0]))
    return Vectors(*map(np.concatenate, zip(*parts, strict=True)))


def read_bottlenecks(files: Sequence[str], dim: int, views: int = 1, fraction: float = 1.0) -> BottleneckTable:
    """Return bottleneck shards as a table, or a fraction of them sampled by key; raises DamagedShard."""
    spec = {**META_SPEC, BOTTLENECK: tf.io.FixedLenFeature([dim], tf.float32)}
    if views > 1:
        spec[BOTTLENECK_VIEWS] = tf.io.FixedLenFeature([views, dim], tf.float32)
    columns: dict[str, list] = {name: [] for name in spec}
    for batch in read_batches(files, spec, max(VECTORS_PER_BATCH // views, 1)):
        # The choice of an image does not depend on the other images.
        chosen = [fraction >= 1 or hash_fraction(_decode(key), "sample") < fraction for key in batch[KEY]]
        for name, column in columns.items():
            column += itertools.compress(batch[name], chosen)
    vectors = np.array(columns[BOTTLENECK], np.float32).reshape(-1, dim)
    return BottleneckTable(
        [_decode(key) for key in columns[KEY]],
        columns[SHA256],
        vectors,
        np.array(columns[BOTTLENECK_VIEWS], np.float32).reshape(-1, views, dim) if views > 1 else vectors[:, None],
        np.array(columns[LABEL], np.int64),
        [_decode(text) for text in columns[TEXT]],
        [_decode(source) for source in columns[SOURCE]],
    )


def _decode(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
