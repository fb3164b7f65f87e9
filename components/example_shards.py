"""Write example shards: a planned shard takes its records from what lies there already, and reads only what is new."""

from __future__ import annotations

import functools
import heapq
from collections import deque
from collections.abc import Iterator, Sequence
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
from components.image_headers import Limits
from components.images import CheckedImage, check_images, read_file
from components.listing import ImageFile
from components.places import do_side_by_side, is_remote
from components.rejects import RejectedImage
from components.shards import find_overlapping, writing_shards

# TensorFlow and hashlib release Python's lock, so this many batches of files are decoded side by side.
DECODE_THREADS = 4
BATCH = 16
# Batches in memory at once.
BATCHES_AHEAD = 2 * DECODE_THREADS


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
            for row, record, facts in self._complete(rows, lying, pool):
                written.append(row._replace(facts=facts, split="" if facts.reason else row.split))
                if record:
                    write[row.split](serialize_labelled(record, row))
        write_index(index, written, self._limits, measure_shard(self._folder, shard, self._shards))
        self._read.inc(sum(row.facts is None for row in rows))
        self._rejected.inc(sum(bool(row.facts and row.facts.reason) for row in written))
        yield from ()

    def _complete(self, rows: list[Row], lying: LyingRecords, pool: ThreadPoolExecutor) -> Iterator[_Complete]:
        ahead: deque[Future[list[_Complete]]] = deque()
        for start in range(0, len(rows), BATCH):
            # Records come from the files in order, images are read side by side.
            batch = [
                (row, lying.find_record(row) if row.facts and row.split else None)
                for row in rows[start : start + BATCH]
            ]
            ahead.append(pool.submit(complete_batch, batch, self._limits))
            if len(ahead) == BATCHES_AHEAD:
                yield from ahead.popleft().result()
        for future in ahead:
            yield from future.result()


class _Complete(NamedTuple):
    row: Row
    record: tf.train.Example | None
    facts: Facts


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
        for batch in tf.data.TFRecordDataset(str(file)).batch(BATCH).prefetch(2).as_numpy_iterator():
            for serialized in batch:
                record = tf.train.Example.FromString(serialized)
                yield _bytes(record, features.KEY), record
    except tf.errors.OpError:  # the images behind the damage are read again
        return


def _bytes(record: tf.train.Example, name: str) -> bytes:
    value: bytes = record.features.feature[name].bytes_list.value[0]
    return value


def complete_batch(batch: Sequence[tuple[Row, tf.train.Example | None]], limits: Limits) -> list[_Complete]:
    """Return rows with their facts and, where they have a split, their records, having read what is missing."""
    unread = [row.file for row, record in batch if row.facts is None or (row.split and record is None)]
    read = iter(read_images(unread, limits))
    completed = []
    for row, record in batch:
        if row.facts is not None and (record or not row.split):
            completed.append(_Complete(row, record, row.facts))
            continue
        checked = next(read)
        if isinstance(checked, RejectedImage):
            completed.append(_Complete(row, None, Facts(*checked.args)))
            continue
        found = (checked.sha256, checked.found_format, checked.height, checked.width, checked.orientation)
        record = make_record(row.file, checked) if row.split else None
        completed.append(_Complete(row, record, Facts("", "", *found)))
    return completed


def read_images(files: Sequence[ImageFile], limits: Limits) -> list[CheckedImage | RejectedImage]:
    """Read and check files."""
    read = functools.partial(_read_content, limits=limits)
    contents = do_side_by_side(read, files, any(is_remote(file.path) for file in files))
    checked = iter(check_images([content for content in contents if isinstance(content, bytes)], limits))
    return [next(checked) if isinstance(content, bytes) else content for content in contents]


def _read_content(file: ImageFile, limits: Limits) -> bytes | RejectedImage:
    try:
        if file.offset < 0:
            return read_file(file.path, limits)
        content: bytes = components.example_sets.read_record(file.path, file.offset)
        return content
    except RejectedImage as rejected:
        return rejected


def make_record(file: ImageFile, checked: CheckedImage) -> tf.train.Example:
    """Return the record of an image that has just been read, all but its class."""
    record = tf.train.Example()
    columns = record.features.feature
    columns[features.KEY].bytes_list.value.append(encode_text(file.key))
    columns[features.ENCODED].bytes_list.value.append(checked.encoded)
    columns[features.FORMAT].bytes_list.value.append(checked.format.encode())
    columns[features.SHA256].bytes_list.value.append(checked.sha256.encode())
    columns[features.HEIGHT].int64_list.value.append(checked.height)
    columns[features.WIDTH].int64_list.value.append(checked.width)
    return record


def serialize_labelled(record: tf.train.Example, row: Row) -> bytes:
    """Serialize a record with the class and source of its row, which may have changed since it was written."""
    for name, value in ((features.TEXT, row.file.text), (features.SOURCE, row.file.source)):
        record.features.feature[name].bytes_list.value[:] = [encode_text(value)]
    record.features.feature[features.LABEL].int64_list.value[:] = [row.label]
    return record.SerializeToString(deterministic=True)
