"""Write example shards: a planned shard takes its records from what lies there already, and reads only what is new."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import apache_beam as beam
import tensorflow as tf
from apache_beam.metrics import Metrics

import components
from components import features
from components.features import index_name
from components.file_index import Facts, Row, encode_text, measure_shard, read_index, write_index
from components.files import PARTIAL
from components.images import CheckedImage, Limits, RejectedImage, check_image, read_file
from components.listing import ImageFile
from components.shards import bytes_feature, find_overlapping, int_feature, writing_shards

# TensorFlow and hashlib release Python's lock, so this many files are decoded side by side.
DECODE_THREADS = 4
# Images in memory at once.
READ_AHEAD = 8 * DECODE_THREADS


def plan_file(folder: Path, shard: int, shards: int) -> Path:
    """Return where the plan of a shard lies: its rows, each with the split in which its record is to lie."""
    return folder / f"plan-{index_name(shard, shards)}{PARTIAL}"


class WriteExampleShard(beam.DoFn):
    """Turns the number of a planned shard into its three TFRecord files and its index."""

    def __init__(self, folder: Path, shards: int, limits: Limits):
        self._folder = folder
        self._shards = shards
        self._limits = limits
        self._read = Metrics.counter("ingest", "read")
        self._rejected = Metrics.counter("ingest", "rejected")
        self._kept = Metrics.counter("ingest", "kept")

    def process(self, shard: int) -> Iterator[Any]:
        rows, _ = read_index(plan_file(self._folder, shard, self._shards), self._limits)
        index = self._folder / index_name(shard, self._shards)
        sizes = measure_shard(self._folder, shard, self._shards)
        if sizes and read_index(index, self._limits) == (rows, sizes):
            return
        # From here on the files change: an index must not speak for files that it does not know.
        index.unlink(missing_ok=True)
        written: list[Row] = []
        lying = LyingRecords(find_overlapping(self._folder, shard, self._shards))
        with ThreadPoolExecutor(DECODE_THREADS) as pool, writing_shards(self._folder, shard, self._shards) as write:
            for row, record, reading in self._look_up(rows, lying, pool):
                if reading:
                    facts, checked = reading.result()
                    self._read.inc()
                    row = row._replace(facts=facts, split=row.split if checked else "")
                    if checked is None:
                        self._rejected.inc()
                    elif row.split:
                        record = make_record(row.file, checked)
                elif record:
                    self._kept.inc()
                written.append(row)
                if record:
                    write[row.split](serialize_labelled(record, row))
        write_index(index, written, self._limits, measure_shard(self._folder, shard, self._shards))
        yield from ()

    def _look_up(self, rows: list[Row], lying: LyingRecords, pool: ThreadPoolExecutor) -> Iterator[_Found]:
        ahead: deque[_Found] = deque()
        for row in rows:
            record = lying.find_record(row) if row.facts and row.split else None
            must_read = row.facts is None or (row.split and record is None)
            reading = pool.submit(read_image, row.file, self._limits) if must_read else None
            ahead.append(_Found(row, record, reading))
            if len(ahead) == READ_AHEAD:
                yield ahead.popleft()
        yield from ahead


class _Found(NamedTuple):
    row: Row
    record: tf.train.Example | None
    reading: Future | None


class LyingRecords:
    """The records of some shard files, in order of key; a damaged file ends where its damage begins."""

    def __init__(self, files: list[Path]):
        self._records = heapq.merge(*map(_read_records, files), key=lambda pair: pair[0])
        self._next = next(self._records, None)

    def find_record(self, row: Row) -> tf.train.Example | None:
        """Return the record of a row's image, if it lies here; rows must come in order of key."""
        key, found = encode_text(row.file.key), None
        while self._next is not None and self._next[0] <= key:
            if (
                self._next[0] == key
                and row.facts
                and _bytes(self._next[1], features.SHA256) == row.facts.sha256.encode()
            ):
                found = self._next[1]
            self._next = next(self._records, None)
        return found


def _read_records(file: Path) -> Iterator[tuple[bytes, tf.train.Example]]:
    try:
        for serialized in tf.data.TFRecordDataset(str(file)).as_numpy_iterator():
            record = tf.train.Example.FromString(serialized)
            yield _bytes(record, features.KEY), record
    except tf.errors.OpError:  # the images behind the damage are read again
        return


def _bytes(record: tf.train.Example, name: str) -> bytes:
    value: bytes = record.features.feature[name].bytes_list.value[0]
    return value


def read_image(file: ImageFile, limits: Limits) -> tuple[Facts, CheckedImage | None]:
    """Read and check one file; return what that told, and the image where it is usable."""
    try:
        checked = check_image(_read_content(file, limits), limits)
    except RejectedImage as rejected:
        return Facts(*rejected.args), None
    found = (checked.sha256, checked.found_format, checked.height, checked.width, checked.orientation)
    return Facts("", "", *found), checked


def _read_content(file: ImageFile, limits: Limits) -> bytes:
    if file.offset < 0:
        return read_file(file.path, limits)
    content: bytes = components.example_sets.read_record(file.path, file.offset)
    return content


def make_record(file: ImageFile, checked: CheckedImage) -> tf.train.Example:
    """Return the record of an image that has just been read, all but its class."""
    record = {
        features.KEY: bytes_feature(encode_text(file.key)),
        features.ENCODED: bytes_feature(checked.encoded),
        features.FORMAT: bytes_feature(checked.format.encode()),
        features.SHA256: bytes_feature(checked.sha256.encode()),
        features.HEIGHT: int_feature(checked.height),
        features.WIDTH: int_feature(checked.width),
    }
    return tf.train.Example(features=tf.train.Features(feature=record))


def serialize_labelled(record: tf.train.Example, row: Row) -> bytes:
    """Serialize a record with the class and source of its row, which may have changed since it was written."""
    for name, value in ((features.TEXT, row.file.text), (features.SOURCE, row.file.source)):
        record.features.feature[name].bytes_list.value[:] = [encode_text(value)]
    record.features.feature[features.LABEL].int64_list.value[:] = [row.label]
    return record.SerializeToString(deterministic=True)
