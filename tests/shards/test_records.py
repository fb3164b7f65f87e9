from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from components import features
from components.errors import DamagedShard
from components.extract.write_shards import bottleneck_record
from components.features import SPLITS
from components.shards.bottlenecks import read_bottlenecks
from components.shards.names import Shard, shard_name
from components.shards.records import find_overlapping, float_feature, serialize_record, shard_files, writing_shards


def write_bottlenecks(folder, rows):
    with writing_shards(folder, Shard(0, 1)) as write:
        for number, vector in enumerate(rows):
            key = f"class/{number}.jpg".encode()
            record = {
                features.KEY: key,
                features.SHA256: b"sum%d" % number,
                features.LABEL: number,
                features.TEXT: b"class",
                features.SOURCE: b"",
            }
            write["train"](bottleneck_record(record, vector[None], vector))


def test_bottlenecks_come_back_as_they_were_written(tmp_path):
    rows = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    write_bottlenecks(tmp_path, rows)
    table = read_bottlenecks(shard_files(tmp_path, "train", [1]), 7)
    np.testing.assert_array_equal(table.vectors, rows)
    assert table.keys == [f"class/{number}.jpg" for number in range(5)]
    assert table.labels.tolist() == list(range(5))
    assert table.sha256[3] == b"sum3"


def test_an_empty_shard_reads_as_an_empty_table(tmp_path):
    write_bottlenecks(tmp_path, [])
    assert read_bottlenecks(shard_files(tmp_path, "val", [1]), 7).vectors.shape == (0, 7)


def test_a_flipped_bit_is_noticed(tmp_path):
    write_bottlenecks(tmp_path, np.ones((5, 7), np.float32))
    (path,) = shard_files(tmp_path, "train", [1])
    content = bytearray(Path(path).read_bytes())
    content[len(content) // 2] ^= 1
    Path(path).write_bytes(content)
    with pytest.raises(DamagedShard) as caught:
        read_bottlenecks([path], 7)
    assert caught.value.path == path


def test_shards_appear_only_when_their_worker_ends_well(tmp_path):
    with pytest.raises(RuntimeError), writing_shards(tmp_path, Shard(0, 1)) as write:
        write["train"](b"half")
        raise RuntimeError
    assert not list(tmp_path.iterdir())
    with writing_shards(tmp_path, Shard(0, 1)):
        assert not list(tmp_path.glob("*.tfrecord"))
    assert {file.name for file in tmp_path.iterdir()} == {shard_name(split, Shard(0, 1)) for split in SPLITS}


def test_equal_records_give_equal_bytes():
    feature = {name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"x"])) for name in "abcdefgh"}
    assert serialize_record(feature) == serialize_record(dict(reversed(feature.items())))


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [((0, 1), (3, 4), True), ((1, 2), (1, 4), False), ((1, 2), (2, 4), True), ((0, 3), (1, 2), False)],
)
def test_shards_overlap_where_their_hash_intervals_do(tmp_path, a, b, expected):
    for (shard, shards), (other, others) in ((a, b), (b, a)):
        file = tmp_path / shard_name("val", Shard(other, others))
        file.touch()
        assert (file in find_overlapping(tmp_path, Shard(shard, shards), [file.name])) is expected


@pytest.mark.parametrize("dim", [0, 1, 31, 32, 1280, 5000, 600_000])
def test_floats_are_wrapped_as_protobuf_would(dim):
    values = np.random.default_rng(dim).normal(size=dim).astype(np.float32)
    expected = tf.train.Feature(float_list=tf.train.FloatList(value=values))
    assert float_feature(values) == expected
    assert float_feature(values.astype(np.float64)[::-1]).float_list.value == expected.float_list.value[::-1]
