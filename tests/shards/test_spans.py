import itertools
from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from components.features import SPLITS
from components.shards.names import Shard, index_name, parse_shard, shard_name
from components.shards.spans import (
    IMAGES_PER_SHARD,
    ONE_SPAN,
    RowGroups,
    assign_shard,
    choose_places,
    choose_shards,
    hash_fraction,
    hash_key,
    keeps_spans,
    list_shards,
    plan_spans,
)

keys = st.text(st.characters(), min_size=1)
spans = st.lists(st.integers(1, 70), min_size=1, max_size=12)


@given(keys, st.text())
def test_a_fraction_lies_in_the_half_open_unit_interval(key, salt):
    assert 0 <= hash_fraction(key, salt) < 1


@given(keys, st.integers(1, 5000))
def test_a_shard_exists(key, shards):
    assert 0 <= assign_shard(key, shards) < shards


@given(keys, st.integers(0, 7))
def test_doubling_the_shards_cuts_each_shard_in_two(key, power):
    assert assign_shard(key, 2 ** (power + 1)) // 2 == assign_shard(key, 2**power)


@given(st.integers(1, 10**9))
def test_the_number_of_shards_is_a_power_of_two_that_grows_with_the_data(images):
    shards = choose_shards(images)
    assert shards & (shards - 1) == 0
    assert shards <= choose_shards(images + 1)


@given(st.lists(keys, unique=True), st.integers(1, 5000))
def test_the_shards_of_a_column_are_those_of_its_keys(keys, shards):
    places = choose_places(np.array([hash_key(key) for key in keys]), shards)
    assert places.tolist() == [assign_shard(key, shards) for key in keys]
    groups = RowGroups.of(places, shards)
    assert sorted(row for shard in range(shards) for row in groups.find(shard)) == [*range(len(keys))]
    assert all((places[groups.find(shard)] == shard).all() for shard in range(shards))


@given(spans)
def test_every_shard_has_names_of_its_own_that_tell_it(spans):
    shards = list_shards(spans)
    assert len(shards) == sum(spans)
    names = [shard_name(split, shard) for shard in shards for split in SPLITS] + [index_name(shard) for shard in shards]
    assert len({*names}) == len(names)
    assert [parse_shard(name) for name in names] == [shard for shard in shards for _ in SPLITS] + shards


def test_names_of_a_single_span_are_those_of_tensorflow_and_other_files_tell_none():
    assert shard_name("val", Shard(3, 8)) == "val-00003-of-00008.tfrecord"
    assert shard_name("val", Shard(3, 8, 2)) == "val-span2-00003-of-00008.tfrecord"
    for name in ("spans.json", "images.csv", "val-00003-of-00008.tfrecord.7.partial", "val-3-of-8.tfrecord"):
        assert parse_shard(name) is None


appends = st.lists(st.integers(0, 3 * IMAGES_PER_SHARD) | st.integers(0, 40), max_size=60)


@given(st.integers(1, 20 * IMAGES_PER_SHARD), appends)
def test_appends_leave_all_spans_but_the_newest_and_that_one_too_unless_all_fits_one_shard(first, appends):
    spans, held = [choose_shards(first)], [first]
    for new in appends:
        before, newest = spans, held[-1]
        spans = plan_spans(before, newest, new)
        assert spans[: len(before)] == before
        if spans == before:
            held[-1] += new
            assert not new or held[-1] <= IMAGES_PER_SHARD
        else:
            held.append(new)
            assert spans[len(before) :] == [choose_shards(new)] and newest + new > IMAGES_PER_SHARD
    assert all(one + other > IMAGES_PER_SHARD for one, other in itertools.pairwise(held))
    assert sum(spans) <= 3 * sum(held) / IMAGES_PER_SHARD + 1


def test_spans_stay_in_a_large_set_unless_another_number_of_shards_is_asked_for():
    assert keeps_spans([8, 1], ONE_SPAN + 1, None) and keeps_spans([8, 1], ONE_SPAN + 1, 8)
    assert not keeps_spans([8, 1], ONE_SPAN + 1, 16)
    assert not keeps_spans([8, 1], ONE_SPAN, None)
    assert not keeps_spans([], ONE_SPAN + 1, None)


def test_a_span_is_spread_evenly():
    counts = Counter(assign_shard(f"class/{number}.jpg", 8) for number in range(20_000))
    assert len(counts) == 8 and all(abs(count / 20_000 - 1 / 8) < 0.02 for count in counts.values())
