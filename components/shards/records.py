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

# Records parsed at once; it bounds memory, images of usual size given.
PARSED_AT_ONCE = 64


def bytes_feature(value: bytes) -> tf.train.Feature:
    """Wrap one byte string."""
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))


def int_feature(value: int) -> tf.train.Feature:
    """Wrap one integer."""
    return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))


def float_feature(values: np.ndarray) -> tf.train.Feature:
    """Wrap a vector of floats."""
    # As protobuf lays packed floats out: field 1, length, little-endian values. Value by value takes 0.7 ms for 1280.
    packed = np.ascontiguousarray(values, "<f4").tobytes()
    return tf.train.Feature(float_list=tf.train.FloatList.FromString(b"\n" + _encode_varint(len(packed)) + packed))


def _encode_varint(number: int) -> bytes:
    digits = []
    while number > 127:
        digits.append(number & 127 | 128)
        number >>= 7
    return bytes([*digits, number])


def serialize_record(record: dict[str, tf.train.Feature]) -> bytes:
    """Serialize a tf.Example; equal records give equal bytes."""
    return tf.train.Example(features=tf.train.Features(feature=record)).SerializeToString(deterministic=True)


@contextmanager
def writing_shards(folder: Path, shard: Shard) -> Iterator[dict[str, Write]]:
    """Yield a write function per split for one shard; the files appear together when the block ends well."""
    with ExitStack() as stack:
        partials = {split: stack.enter_context(replacing_file(folder / shard_name(split, shard))) for split in SPLITS}
        writers = {
            split: stack.enter_context(tf.io.TFRecordWriter(str(partial))) for split, partial in partials.items()
        }
        yield {split: writer.write for split, writer in writers.items()}


def shard_files(folder: Path, split: str, shards: Sequence[int]) -> list[str]:
    """Return the paths of a split's shards, in order, given how many each span has."""
    return [str(folder / shard_name(split, shard)) for shard in list_shards(shards)]


def shard_patterns(folder: Path, split: str, shards: Sequence[int]) -> list[str]:
    """Return a pattern for each span that matches the paths of a split's shards, given how many each span has."""
    names = [shard_name(split, Shard(0, count, span)) for span, count in enumerate(shards)]
    return [str(folder / name.replace("00000-of", "?????-of")) for name in names]


def list_former(folder: Path, shards: Sequence[int]) -> list[str]:
    """Return the names of the shard files in a folder that runs wrote for spans other than these."""
    current = {*list_shards(shards)}
    return [name for name in list_written(folder) if is_shard(name) and parse_shard(name) not in current]


def find_overlapping(folder: Path, shard: Shard, former: Sequence[str]) -> list[Path]:
    """Return the files, of any split, that can hold an image of a shard: its own, and those of former names.

    An image never goes from one of the spans to another, so the files of their other shards are left alone.
    """
    own = [folder / name for name in shard_names(shard)]
    return sorted(
        [*(file for file in own if file.exists())]
        + [folder / name for name in former if (lies := parse_shard(name)) and _overlap(shard, lies)]
    )


def _overlap(shard: Shard, other: Shard) -> bool:
    # Shard s of n covers the hash interval [s/n, (s+1)/n).
    return shard.number * other.of < (other.number + 1) * shard.of and (
        other.number * shard.of < (shard.number + 1) * other.of
    )


def read_batches(files: Sequence[str], spec: dict, batch_size: int = PARSED_AT_ONCE) -> Iterator[dict[str, np.ndarray]]:
    """Yield parsed batches of records in file order; raises DamagedShard for a damaged file."""
    records = tf.data.TFRecordDataset(list(files)).batch(batch_size)
    with naming_damage(files):
        yield from records.map(lambda batch: tf.io.parse_example(batch, spec)).prefetch(2).as_numpy_iterator()


@contextmanager
def naming_damage(files: Sequence[str]) -> Iterator[None]:
    """Turn TensorFlow's complaint about a damaged record into a DamagedShard that names the file."""
    try:
        yield
    except (tf.errors.DataLossError, tf.errors.InvalidArgumentError, tf.errors.NotFoundError):
        check_shards(files)
        raise


def check_shards(files: Sequence[str]) -> None:
    """Read files through, comparing checksums; raises DamagedShard for the first that is damaged or missing."""
    for file in files:
        try:
            for _ in tf.data.TFRecordDataset(file).batch(PARSED_AT_ONCE):
                pass
        except (tf.errors.DataLossError, tf.errors.NotFoundError) as error:
            raise DamagedShard(file) from error


def check_count(found: int, expected: int, place: object) -> None:
    """Raise UserError where a place holds another number of records than the stage before has written there.

    A file that is cut off between two records passes all checksums.
    """
    if found != expected:
        raise UserError(
            f"'{place}' holds {found:,} records and {expected:,} were written there: a file in it has changed since, "
            f"run again, which writes it anew."
        )
