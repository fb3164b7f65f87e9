"""Read and write the TFRecord shards that all stages share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import tensorflow as tf

from components import features
from components.errors import DamagedShard, UserError
from components.features import SPLITS
from components.shards.names import Shard, is_shard, parse_shard, shard_name, shard_names
from components.shards.spans import list_shards
from components.storage.files import replacing_file
from components.storage.ownership import list_written

Write = Callable[[bytes], None]

META_SPEC = {
    features.KEY: tf.io.FixedLenFeature([], tf.string),
    features.SHA256: tf.io.FixedLenFeature([], tf.string),
    features.LABEL: tf.io.FixedLenFeature([], tf.int64),
    features.TEXT: tf.io.FixedLenFeature([], tf.string),
    features.SOURCE: tf.io.FixedLenFeature([], tf.string),
}
IMAGE_SPEC = {**META_SPEC, features.ENCODED: tf.io.FixedLenFeature([], tf.string)}

# Records parsed at once, which limits memory for images of usual size.
PARSED_AT_ONCE = 64


def bytes_feature(value: bytes) -> tf.train.Feature:
    """Return a feature with one byte string."""
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))


def int_feature(value: int) -> tf.train.Feature:
    """Return a feature with one integer."""
    return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))


def float_feature(values: np.ndarray) -> tf.train.Feature:
    """Return a feature with a vector float[D], stored as float32."""
    # The packed floats of protobuf: field 1, length, little-endian values. Its own constructor takes 0.7 ms for 1280.
    packed = np.ascontiguousarray(values, "<f4").tobytes()
    return tf.train.Feature(float_list=tf.train.FloatList.FromString(b"\n" + _encode_varint(len(packed)) + packed))


def _encode_varint(number: int) -> bytes:
    digits = []
    while number > 127:
        digits.append(number & 127 | 128)
        number >>= 7
    return bytes([*digits, number])


def serialize_record(record: dict[str, tf.train.Feature]) -> bytes:
    """Return a serialized tf.Example; equal records give equal bytes."""
    return tf.train.Example(features=tf.train.Features(feature=record)).SerializeToString(deterministic=True)


@contextmanager
def writing_shards(folder: Path, shard: Shard) -> Iterator[dict[str, Write]]:
    """Yield a write function per split for one shard; the files appear after the block, none after an exception."""
    with ExitStack() as stack:
        partials = {split: stack.enter_context(replacing_file(folder / shard_name(split, shard))) for split in SPLITS}
        writers = {
            split: stack.enter_context(tf.io.TFRecordWriter(str(partial))) for split, partial in partials.items()
        }
        yield {split: writer.write for split, writer in writers.items()}


def shard_files(folder: Path, split: str, shards: Sequence[int]) -> list[str]:
    """Return the paths of a split's shards in order, given the number of shards per span."""
    return [str(folder / shard_name(split, shard)) for shard in list_shards(shards)]


def shard_patterns(folder: Path, split: str, shards: Sequence[int]) -> list[str]:
    """Return a pattern per span for the paths of a split's shards, given the number of shards per span."""
    names = [shard_name(split, Shard(0, count, span)) for span, count in enumerate(shards)]
    return [str(folder / name.replace("00000-of", "?????-of")) for name in names]


def list_former(folder: Path, shards: Sequence[int]) -> list[str]:
    """Return the names of the shard files in a folder that earlier runs wrote for other spans."""
    current = {*list_shards(shards)}
    return [name for name in list_written(folder) if is_shard(name) and parse_shard(name) not in current]


def find_overlapping(folder: Path, shard: Shard, former: Sequence[str]) -> list[Path]:
    """Return the files of all splits that can contain an image of a shard: its own, and those of former names.

    An image never changes its span, so the other shards of the current spans cannot contain it.
    """
    own = [folder / name for name in shard_names(shard) if (folder / name).exists()]
    others = [folder / name for name in former if (other := parse_shard(name)) and _overlap(shard, other)]
    return sorted(own + others)


def _overlap(shard: Shard, other: Shard) -> bool:
    # Shard s of n has the hashes in [s/n, (s+1)/n).
    return shard.number * other.of < (other.number + 1) * shard.of and (
        other.number * shard.of < (shard.number + 1) * other.of
    )


def read_batches(files: Sequence[str], spec: dict, batch_size: int = PARSED_AT_ONCE) -> Iterator[dict[str, np.ndarray]]:
    """Yield records in file order as batches of one array [B, ...] per feature; raises DamagedShard."""
    records = tf.data.TFRecordDataset(list(files)).batch(batch_size)
    with naming_damage(files):
        yield from records.map(lambda batch: tf.io.parse_example(batch, spec)).prefetch(2).as_numpy_iterator()


@contextmanager
def naming_damage(files: Sequence[str]) -> Iterator[None]:
    """Replace TensorFlow's errors for a damaged record by a DamagedShard with the path of the file."""
    try:
        yield
    except (tf.errors.DataLossError, tf.errors.InvalidArgumentError, tf.errors.NotFoundError):
        check_shards(files)
        raise


def check_shards(files: Sequence[str]) -> None:
    """Read files to compare their checksums; raises DamagedShard for the first damaged or missing one."""
    for file in files:
        try:
            for _ in tf.data.TFRecordDataset(file).batch(PARSED_AT_ONCE):
                pass
        except (tf.errors.DataLossError, tf.errors.NotFoundError) as error:
            raise DamagedShard(file) from error


def check_count(found: int, expected: int, place: object) -> None:
    """Raise UserError if a place has another number of records than an earlier stage wrote there.

    A file that is cut off between two records has no wrong checksum.
    """
    if found != expected:
        raise UserError(
            f"'{place}' has {found:,} records, expected {expected:,}: a file in it has changed since it was written, "
            f"run again to write it again."
        )
