"""Write example shards: a planned shard takes its records from what lies there already, and reads only what is new."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, TimeoutError
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import apache_beam as beam
import tensorflow as tf
from apache_beam.metrics import Metrics

from components import features
from components.data.image_file import ImageFile
from components.images.check import CheckedImage
from components.images.formats import Limits
from components.ingest.isolated_reader import CarefulReader
from components.ingest.read_images import read_images
from components.rejects import RejectedImage
from components.shards.index import Facts, Row, encode_text, measure_shard, read_index, write_index
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
# Of a batch that is next in line: after that, a thread is taken to hang. A batch of photos takes 0.1 s.
BATCH_SECONDS = 120


BEGUN = f"{OWN_PREFIX}-begun-"


def begun_file(folder: Path, shard: Shard) -> Path:
    """Return what lies beside a shard while it is written: if its writer was killed, an image may have done that."""
    return folder / f"{BEGUN}{index_name(shard)}"


def remove_begun(folder: Path) -> None:
    """Remove what killed writers of shards, of whatever number of them, have left to tell of."""
    for name in list_files(folder):
        if name.startswith(BEGUN):
            remove_file(folder / name)


class WriteExampleShard(beam.DoFn):
    """Turns a shard, whose index is a plan, into its three TFRecord files and their index.

    former are the names of shard files of other spans, from which records are taken over.
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
        lying = LyingRecords(find_overlapping(self._folder, shard, self._former))
        with (
            _reading(begun_file(self._folder, shard), self._limits) as reader,
            writing_shards(self._folder, shard) as write,
        ):
            for row, record, facts in reader.complete(rows, lying):
                written.append(row._replace(facts=facts, split="" if facts.reason else row.split))
                if record:
                    write[row.split](serialize_labelled(record, row))
        write_index(index, written, self._limits, measure_shard(self._folder, shard))
        self._read.inc(sum(row.facts is None for row in rows))
        self._rejected.inc(sum(bool(row.facts and row.facts.reason) for row in written))
        yield from ()


class _Complete(NamedTuple):
    row: Row
    record: tf.train.Example | None
    facts: Facts


Batch = Sequence[tuple[Row, tf.train.Example | None]]
Read = Callable[[Sequence[ImageFile]], list[CheckedImage | RejectedImage]]


class BatchReader:
    """Completes the rows of a shard with their records and facts, reading in threads, or carefully."""

    def __init__(self, limits: Limits, careful: bool):
        self._read: Read = lambda files: read_images(files, limits)
        self._child = CarefulReader(limits)
        self._careful = careful
        self._pool = ThreadPoolExecutor(DECODE_THREADS)

    def complete(self, rows: list[Row], lying: LyingRecords) -> Iterator[_Complete]:
        """Yield rows in their order, with what lies there already, or else is read."""
        ahead: deque[tuple[Batch, Future[list[_Complete]]]] = deque()
        for start in range(0, len(rows), BATCH):
            # Records come from the files in order, images are read side by side.
            batch = [
                (row, lying.find_record(row) if row.facts and row.split else None)
                for row in rows[start : start + BATCH]
            ]
            if self._careful:
                yield from complete_batch(batch, self._child.read_batch)
                continue
            ahead.append((batch, self._pool.submit(complete_batch, batch, self._read)))
            if len(ahead) == BATCHES_AHEAD:
                yield from self._finish(ahead)
        while ahead:
            yield from self._finish(ahead)

    def _finish(self, ahead: deque[tuple[Batch, Future[list[_Complete]]]]) -> list[_Complete]:
        batch, future = ahead.popleft()
        try:
            return future.result(BATCH_SECONDS)
        except TimeoutError:
            # A thread cannot be ended: others take over what it would have done.
            self._pool.shutdown(wait=False)
            self._pool = ThreadPoolExecutor(DECODE_THREADS)
            for place, (waiting, later) in enumerate(ahead):
                if later.cancel():
                    ahead[place] = (waiting, self._pool.submit(complete_batch, waiting, self._read))
        except OSError:  # the storage fails: that tells nothing of the images
            raise
        except Exception:  # whatever a decoder raises: which of the images it was, the child tells
            pass
        return complete_batch(batch, self._child.read_each)

    def close(self) -> None:
        """End threads and child."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._child.close()


@contextmanager
def _reading(begun: Path, limits: Limits) -> Iterator[BatchReader]:
    reader = BatchReader(limits, careful=begun.exists())
    write_text(begun, "")
    try:
        yield reader
    finally:
        reader.close()
        begun.unlink(missing_ok=True)


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
    except tf.errors.DataLossError:  # the images behind the damage are read again
        return


def _bytes(record: tf.train.Example, name: str) -> bytes:
    value: bytes = record.features.feature[name].bytes_list.value[0]
    return value


def complete_batch(batch: Batch, read_files: Read) -> list[_Complete]:
    """Return rows with their facts and, where they have a split, their records, having read what is missing."""
    unread = [row.file for row, record in batch if row.facts is None or (row.split and record is None)]
    read = iter(read_files(unread) if unread else ())
    completed = []
    for row, record in batch:
        if row.facts is not None and (record or not row.split):
            completed.append(_Complete(row, record, row.facts))
            continue
        checked = next(read)
        if isinstance(checked, RejectedImage):
            completed.append(_Complete(row, None, Facts(*checked.args)))
            continue
        size = (checked.height, checked.width)
        facts = Facts("", "", checked.sha256, checked.found_format, *size, checked.orientation, int(checked.uniform))
        record = make_record(row.file, checked) if row.split else None
        completed.append(_Complete(row, record, facts))
    return completed


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
