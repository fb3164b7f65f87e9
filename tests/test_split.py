from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from components.split import assign_shard, assign_split, choose_shards, hash_fraction

SHARES = {"train": 0.6, "val": 0.2, "test": 0.2}
keys = st.text(st.characters(), min_size=1)


@given(keys, st.text())
def test_a_fraction_lies_in_the_half_open_unit_interval(key, salt):
    assert 0 <= hash_fraction(key, salt) < 1


@given(keys, st.integers(1, 5000))
def test_a_shard_exists(key, shards):
    assert 0 <= assign_shard(key, shards) < shards


@given(keys, st.integers(0, 7))
def test_doubling_the_shards_cuts_each_shard_in_two(key, power):
    assert assign_shard(key, 2 ** (power + 1)) // 2 == assign_shard(key, 2**power)


@given(keys, st.integers(0, 2**31))
def test_the_split_is_a_function_of_key_and_seed(key, seed):
    assert assign_split(key, SHARES, seed) == assign_split(key, dict(reversed(SHARES.items())), seed) in SHARES


def test_splits_get_their_shares():
    counts = Counter(assign_split(f"class/{number}.jpg", SHARES, 0) for number in range(20_000))
    assert abs(counts["train"] / 20_000 - 0.6) < 0.02
    assert abs(counts["val"] / 20_000 - 0.2) < 0.02


def test_split_and_shard_are_independent():
    tests = [key for key in map(str, range(20_000)) if assign_split(key, SHARES, 0) == "test"]
    shards = Counter(assign_shard(key, 4) for key in tests)
    assert all(abs(count / len(tests) - 0.25) < 0.03 for count in shards.values())


def test_another_seed_gives_another_split():
    keys_of = {seed: {k for k in map(str, range(1000)) if assign_split(k, SHARES, seed) == "test"} for seed in (0, 1)}
    assert len(keys_of[0] & keys_of[1]) < 0.5 * len(keys_of[0])


@given(st.integers(1, 10**9))
def test_the_number_of_shards_is_a_power_of_two_that_grows_with_the_data(images):
    shards = choose_shards(images)
    assert shards & (shards - 1) == 0
    assert shards <= choose_shards(images + 1)
