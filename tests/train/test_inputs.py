import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from components.errors import DamagedShard, UserError
from components.features import BOTTLENECK, BOTTLENECK_VIEWS, KEY, LABEL, SHA256, SOURCE, TEXT
from components.shards.bottlenecks import Source, Vectors, load_vectors
from components.shards.names import Shard, shard_name
from components.shards.records import bytes_feature, float_feature, int_feature, serialize_record, writing_shards
from components.train.inputs import (
    default_memory,
    evaluate_from_memory,
    evaluate_from_shards,
    read_memory_limit,
    train_from_memory,
    train_from_shards,
)

DIM = 4
PHYSICAL = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
UNLIMITED = "9223372036854771712\n"  # as version 1 says it


def number_of(vectors):
    """Return the image and the view that a made vector stands for."""
    return np.asarray(vectors)[..., 0].astype(int), np.asarray(vectors)[..., 1].astype(int)


def write_source(folder, count, views, shards=3):
    """Write bottlenecks whose first number tells the image, whose second the view; the label is the image modulo 5."""
    made = np.zeros((count, views, DIM), np.float32)
    made[:, :, 0], made[:, :, 1] = np.arange(count)[:, None], np.arange(views)
    for shard in range(shards):
        with writing_shards(folder, Shard(shard, shards)) as write:
            for image in range(count)[shard::shards]:
                record = {name: bytes_feature(b"x") for name in (KEY, SHA256, TEXT, SOURCE)}
                record[LABEL] = int_feature(image % 5)
                record[BOTTLENECK] = float_feature(made[image, 0])
                if views > 1:
                    record[BOTTLENECK_VIEWS] = float_feature(made[image].ravel())
                write["train"](serialize_record(record))
    files = [str(folder / shard_name("train", Shard(shard, shards))) for shard in range(shards)]
    return Source(files, count, DIM, views), made


def collect(batches):
    return [(features[BOTTLENECK], labels) for features, labels in batches.input_fn().as_numpy_iterator()]


@pytest.mark.parametrize("views", [1, 3])
def test_vectors_are_loaded_in_order_with_all_their_views(tmp_path, views):
    source, made = write_source(tmp_path, 50, views)
    vectors = load_vectors(source)
    order, _ = number_of(vectors.values[:, 0])
    assert order.tolist() == [image for shard in range(3) for image in range(50)[shard::3]]
    np.testing.assert_array_equal(vectors.values, made[order])
    np.testing.assert_array_equal(vectors.labels, order % 5)
    assert source.bytes == 50 * views * DIM * 4


def test_parts_of_what_is_in_memory_are_all_of_it_in_order(monkeypatch):
    monkeypatch.setattr("components.shards.bottlenecks.PART", 3)
    vectors = Vectors(np.arange(56, dtype=np.float32).reshape(7, 2, 4), np.arange(7))
    parts = list(vectors.parts())
    assert [len(part.labels) for part in parts] == [3, 3, 1]
    np.testing.assert_array_equal(np.concatenate([part.values for part in parts]), vectors.values)
    np.testing.assert_array_equal(np.concatenate([part.labels for part in parts]), vectors.labels)


def test_a_fifth_of_the_memory_that_the_container_has_is_taken_by_default(monkeypatch):
    monkeypatch.setattr("components.train.inputs.read_memory_limit", lambda: 4_000_000_001)
    assert default_memory() == 800_000_000


@pytest.mark.parametrize("views, sizes", [(1, [1024, 1024, 452]), (3, [341] * 7 + [113])])
def test_parts_hold_all_views_in_the_order_of_the_files_and_little_at_a_time(tmp_path, views, sizes):
    source, made = write_source(tmp_path, 2500, views, shards=2)
    parts = list(source.parts())
    assert [part.values.shape for part in parts] == [(size, views, DIM) for size in sizes]
    assert [len(part.labels) for part in parts] == sizes
    whole = load_vectors(source)
    np.testing.assert_array_equal(np.concatenate([part.values for part in parts]), whole.values)
    np.testing.assert_array_equal(np.concatenate([part.labels for part in parts]), whole.labels)
    order, _ = number_of(whole.values[:, 0])
    np.testing.assert_array_equal(whole.values, made[order])


def test_shards_without_records_have_no_parts(tmp_path):
    source, _ = write_source(tmp_path, 0, 1)
    assert list(source.parts()) == []


def test_shards_that_hold_fewer_than_were_counted_are_no_split(tmp_path):
    source, _ = write_source(tmp_path, 50, 1)
    with pytest.raises(UserError, match="has 50 records, expected 51"):
        load_vectors(replace(source, count=51))


@pytest.fixture(params=["memory", "shards", "shards, little memory"])
def training(request, tmp_path):
    """Return a function that gives training batches, from memory or from shards."""

    def prepare(count, views, epochs, batch_size, seed=0):
        source, _ = write_source(tmp_path, count, views)
        if request.param == "memory":
            return train_from_memory(load_vectors(source), epochs, batch_size, seed)
        memory = 10**9 if request.param == "shards" else 1
        return train_from_shards(source, epochs, batch_size, seed, memory)

    return prepare


@pytest.mark.parametrize("views", [1, 3])
def test_every_epoch_sees_one_view_of_each_image_once_in_another_order(training, views):
    batches = training(50, views, 4, 16)
    assert batches.per_pass == math.ceil(50 / 16)
    found = collect(batches)
    assert [len(labels) for _, labels in found] == [16, 16, 16, 2] * 4
    orders, seen = [], set()
    for epoch in range(4):
        part = found[4 * epoch : 4 * epoch + 4]
        images, drawn = number_of(np.concatenate([vectors for vectors, _ in part]))
        assert sorted(images) == list(range(50))
        np.testing.assert_array_equal(np.concatenate([labels for _, labels in part]), images % 5)
        orders.append(tuple(images))
        seen |= set(zip(images, drawn, strict=True))
    assert len(set(orders)) == 4
    assert {view for _, view in seen} == set(range(views))
    assert views == 1 or len(seen) > 80


def test_a_seed_gives_the_same_batches_and_another_gives_others(training):
    def flatten(seed):
        return [row for vectors, _ in collect(training(40, 2, 2, 16, seed)) for row in vectors.tolist()]

    assert flatten(1) == flatten(1)
    assert flatten(1) != flatten(2)


@pytest.mark.parametrize("count", [1, 1024, 1500])
def test_evaluation_sees_what_is_served_of_each_image_once_in_order(tmp_path, count):
    source, _ = write_source(tmp_path, count, views=2, shards=1)
    vectors = load_vectors(source)
    for batches in (evaluate_from_shards(source), evaluate_from_memory(vectors.values[:, 0], vectors.labels)):
        found = collect(batches)
        assert batches.per_pass == len(found) == math.ceil(count / 1024)
        images, views = number_of(np.concatenate([values for values, _ in found]))
        assert images.tolist() == list(range(count)) and not views.any()
        np.testing.assert_array_equal(np.concatenate([labels for _, labels in found]), images % 5)


def test_a_global_seed_that_others_have_set_changes_nothing(tmp_path):
    source, _ = write_source(tmp_path, 60, 1)

    def flatten():
        return [
            row for vectors, _ in collect(train_from_shards(source, 2, 16, 3, memory=1)) for row in vectors.tolist()
        ]

    try:
        tf.random.set_seed(0)
        beside_zero = flatten()
        tf.random.set_seed(5)
        assert flatten() == beside_zero
    finally:
        tf.random.set_seed(None)


def test_a_batch_from_shards_mixes_shards_even_without_a_large_buffer(tmp_path):
    source, _ = write_source(tmp_path, 300, 1)
    vectors, _ = collect(train_from_shards(source, 1, 16, 0, memory=1))[0]
    assert len({int(image) % 3 for image in number_of(vectors)[0]}) == 3


def test_a_flipped_bit_is_named_with_its_file(tmp_path):
    source, _ = write_source(tmp_path, 50, 1)
    content = bytearray(Path(source.files[1]).read_bytes())
    content[100] ^= 1
    Path(source.files[1]).write_bytes(content)
    for read in (load_vectors, lambda source: list(source.parts())):
        with pytest.raises(DamagedShard) as caught:
            read(source)
        assert caught.value.path == source.files[1]


@pytest.mark.parametrize(
    ("groups", "files", "limit"),
    [
        ("0::/\n", {"sys/fs/cgroup/memory.max": "4096\n"}, 4096),  # a container with a name space of its own
        ("0::/\n", {"sys/fs/cgroup/memory.max": "max\n"}, PHYSICAL),
        ("0::/\n", {}, PHYSICAL),
        ("0::/job/step\n", {"sys/fs/cgroup/job/step/memory.max": "max", "sys/fs/cgroup/job/memory.max": "8192"}, 8192),
        ("0::/job/step\n", {"sys/fs/cgroup/job/step/memory.max": "99", "sys/fs/cgroup/job/memory.max": "8192"}, 99),
        ("5:cpu,memory:/docker/1\n", {"sys/fs/cgroup/memory/memory.limit_in_bytes": "4096\n"}, 4096),
        ("5:memory:/job\n0::/\n", {"sys/fs/cgroup/memory/job/memory.limit_in_bytes": "77\n"}, 77),
        ("5:memory:/\n0::/\n", {"sys/fs/cgroup/memory/memory.limit_in_bytes": UNLIMITED}, PHYSICAL),
        ("5:cpu:/job\n", {"sys/fs/cgroup/memory/job/memory.limit_in_bytes": "77\n"}, PHYSICAL),
        (None, {"sys/fs/cgroup/memory.max": "4096\n"}, PHYSICAL),  # no Linux
    ],
)
def test_the_limit_is_the_least_of_the_machine_and_the_groups_that_hold_the_process(tmp_path, groups, files, limit):
    for name, content in {**files, **({"proc/self/cgroup": groups} if groups else {})}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    assert read_memory_limit(tmp_path) == limit


def test_this_process_may_use_something():
    assert 0 < read_memory_limit() <= PHYSICAL
