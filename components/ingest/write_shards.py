"""Write example shards: the records of a planned shard are taken from existing files, and only new images are read."""

from __future__ import annotations

import functools
import heapq
import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, TimeoutError
from contextlib import closing
from pathlib import Path
from typing import Any

import apache_beam as beam
import tensorflow as tf
from apache_beam.metrics import Metrics

from components import features
from components.data.image_file import ImageFile
from components.images.check import CheckedImage
from components.images.formats import Limits
from components.ingest.isolated_reader import IsolatedReader
from components.ingest.read_images import read_images
from components.rejects import RejectedImage
from components.shards.facts import Facts
from components.shards.index import Row, encode_text, measure_shard, read_index, write_index
from components.shards.names import Shard, index_name
from components.shards.records import find_overlapping, writing_shards
from components.storage.files import write_text
from components.storage.ownership import OWN_PREFIX
from components.storage.places import list_files, remove_file

# TensorFlow and hashlib release Python's lock, so this many batches of files are decoded side by side.
DECODE_THREADS = 4
BATCH = 16
# Batches in memory at once.
BATCHES_AHEAD = 2 * DECODE_THREADS
# After so many seconds for the next batch, its thread counts as hanging. A batch of photos takes 0.1 s.
BATCH_SECONDS = 120
IN_PROGRESS = f"{OWN_PREFIX}-begun-"

# A row of a shard and its record, None while it is not read or if it has none.
RowRecord = tuple[Row, tf.train.Example | None]


def in_progress_marker(folder: Path, shard: Shard) -> Path:
    """Return the file that exists while a shard is written: if it is left, an image may have killed the writer."""
    return folder / f"{IN_PROGRESS}{index_name(shard)}"


def remove_markers(folder: Path) -> None:
    """Remove the in-progress markers that killed writers left in a folder, whatever its number of shards."""
    for name in list_files(folder):
        if name.startswith(IN_PROGRESS):
            remove_file(folder / name)


class WriteExampleShard(beam.DoFn):
    """Writes the three TFRecord files of a shard and their index, according to the plan in the present index.

    former lists the names of shard files of other spans, whose records are copied.
    """

    def __init__(self, folder: Path, former: Sequence[str], limits: Limits):
        self._folder = folder
        self._former = former
        self._limits = limits
        self._read = Metrics.counter("ingest", "read")
        self._rejected = Metrics.counter("ingest", "rejected")

    def process(self, numbers: tuple[int, int, int]) -> Iterator[Any]:
        shard = Shard(*numbers)
        index = self._folder / index_name(shard)
        rows, _ = read_index(index, self._limits)
        written: list[Row] = []
        existing = match_records(rows, find_overlapping(self._folder, shard, self._former))
        with (
            closing(BatchReader(in_progress_marker(self._folder, shard), self._limits)) as reader,
            writing_shards(self._folder, shard) as write,
        ):
            for row, record in reader.complete(existing):
                written.append(row)
                if record:
                    write[row.split](serialize_labelled(record, row))
        write_index(index, written, self._limits, measure_shard(self._folder, shard))
        self._read.inc(sum(row.facts is None for row in rows))
        self._rejected.inc(sum(bool(row.facts and row.facts.reason) for row in written))
        yield from ()


class BatchReader:
    """Reads the images of a shard in threads, or in a child process if its in-progress marker is left from before."""

    def __init__(self, marker: Path, limits: Limits):
        self._read_files = functools.partial(read_images, limits=limits)
        self._child = IsolatedReader(limits)
        self._marker = marker
        self._isolated = marker.exists()
        self._pool = ThreadPoolExecutor(DECODE_THREADS)
        write_text(marker, "")

    def complete(self, rows: Iterator[RowRecord]) -> Iterator[RowRecord]:
        """Yield the rows in their order with their facts and, if they have a split, their records."""
        ahead: deque[tuple[list[RowRecord], Future[list[RowRecord]]]] = deque()
        # Records come from the files in order; images are read side by side.
        while batch := list(itertools.islice(rows, BATCH)):
            if self._isolated:
                yield from complete_batch(batch, self._child.read_batch)
                continue
            ahead.append((batch, self._pool.submit(complete_batch, batch, self._read_files)))
            if len(ahead) == BATCHES_AHEAD:
                yield from self._finish(ahead)
        while ahead:
            yield from self._finish(ahead)

    def _finish(self, ahead: deque[tuple[list[RowRecord], Future[list[RowRecord]]]]) -> list[RowRecord]:
        batch, future = ahead.popleft()
        try:
            return future.result(BATCH_SECONDS)
        except TimeoutError:
            # A thread cannot be ended: new threads take over its waiting batches.
            self._pool.shutdown(wait=False)
            self._pool = ThreadPoolExecutor(DECODE_THREADS)
            for place, (waiting, later) in enumerate(ahead):
                if later.cancel():
                    ahead[place] = (waiting, self._pool.submit(complete_batch, waiting, self._read_files))
        except OSError:  # the storage failed, which says nothing about the images
            raise
        except Exception:  # of any decoder: the child finds the image that raised it
            pass
        return complete_batch(batch, self._child.read_each)

    def close(self) -> None:
        """End the threads and the child, and remove the marker."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._child.close()
        self._marker.unlink(missing_ok=True)


def match_records(rows: Sequence[Row], files: Sequence[Path]) -> Iterator[RowRecord]:
    """Yield rows in order of key, each with the record of the same checksum in shard files, None without one."""
    records = heapq.merge(*map(_read_records, files), key=lambda pair: pair[0])
    following = next(records, None)
    for row in rows:
        key, found = encode_text(row.file.key), None
        checksum = row.facts.sha256.encode() if row.facts and row.split else None
        while following and following[0] <= key:
            if following[0] == key and _get_bytes(following[1], features.SHA256) == checksum:
                found = following[1]
            following = next(records, None)
        yield row, found


def _read_records(file: Path) -> Iterator[tuple[bytes, tf.train.Example]]:
    try:
        for batch in tf.data.TFRecordDataset(str(file)).batch(BATCH).prefetch(2).as_numpy_iterator():
            for serialized in batch:
                record = tf.train.Example.FromString(serialized)
                yield _get_bytes(record, features.KEY), record
    except tf.errors.DataLossError:  # the images after the damage are read again
        return


def _get_bytes(record: tf.train.Example, name: str) -> bytes:
    value: bytes = record.features.feature[name].bytes_list.value[0]
    return value


def complete_batch(
    batch: list[RowRecord], read_files: Callable[[Sequence[ImageFile]], list[CheckedImage | RejectedImage]]
) -> list[RowRecord]:
    """Return rows with their facts and, if they have a split, their records; read_files reads the missing images."""
    unread = [row.file for row, record in batch if row.facts is None or (row.split and record is None)]
    read = dict(zip(unread, read_files(unread) if unread else (), strict=True))
    completed: list[RowRecord] = []
    for row, record in batch:
        checked = read.get(row.file)
        if isinstance(checked, RejectedImage):
            row, record = row._replace(facts=Facts(*checked.args), split=""), None
        elif checked:
            size = (checked.height, checked.width)
            facts = Facts(
                "", "", checked.sha256, checked.found_format, *size, checked.orientation, int(checked.uniform)
            )
            row, record = row._replace(facts=facts), make_record(row.file, checked) if row.split else None
        completed.append((row, record))
    return completed


def make_record(file: ImageFile, checked: CheckedImage) -> tf.train.Example:
    """Return the record of an image that has just been read, without its class and source."""
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
    """Return the bytes of a record with the class and source of its row, which may differ from an earlier run."""
    for name, value in ((features.TEXT, row.file.text), (features.SOURCE, row.file.source)):
        record.features.feature[name].bytes_list.value[:] = [encode_text(value)]
    record.features.feature[features.LABEL].int64_list.value[:] = [row.label]
    return record.SerializeToString(deterministic=True)
