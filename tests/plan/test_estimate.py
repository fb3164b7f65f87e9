from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.plan.estimate import (
    MOST_SHARDS,
    ROW_SECONDS,
    SHARD_BYTES,
    SHARDS_PER_VCPU,
    estimate_driver_bytes,
    estimate_stages,
    plan_shards,
    price_stages,
)
from components.plan.simulation import Fleet
from components.plan.trials import Law
from components.plan.workload import StageLaws, Workload
from components.shards.spans import IMAGES_PER_SHARD, choose_shards

WORKLOAD = Workload({"train": 0.5, "val": 0.25, "test": 0.25}, lambda images: 4, pair_seconds=(1e-9, 2e-9))
LAWS = {
    "ingest": StageLaws(Law(5, 0.001), Law(4, 0.002), Law(0, 20_000)),
    "validate": StageLaws(Law(6, 0.001), Law(5, 0.001), Law(500, 0)),
    "extract": StageLaws(Law(8, 0.01), Law(7, 0.02), Law(100, 5000)),
    "audit": StageLaws(Law(2, 0.001), Law(2, 0.001), Law(0, 10)),
    "train": StageLaws(Law(3, 0.00001), Law(3, 0.00001), Law(2000, 0)),
}
FLEET = Fleet(workers=50, slots=4, startup=240)


def by_name(estimates):
    return {estimate.stage: estimate for estimate in estimates}


def test_one_machine_takes_the_fixed_part_and_so_much_an_image():
    found = by_name(estimate_stages(10_000, LAWS, WORKLOAD, None, shards=16))
    assert found["ingest"].seconds == pytest.approx(5 + 10)
    assert found["extract"].seconds == pytest.approx(8 + 100)
    assert found["audit"].seconds == pytest.approx(2 + 0.001 * 1500 + 1e-9 * 10_000**2 / 2)
    assert found["train"].seconds == pytest.approx(3 + 0.00001 * (10_000 + 4 * (5000 + 2500)))
    assert not any(estimate.on_workers for estimate in found.values())


def test_workers_start_then_take_shards_in_waves():
    # 1,000 shards of 1,000 images on 200 vCPUs: 5 waves of 2 s (ingest) and 20 s (extract).
    found = by_name(estimate_stages(1_000_000, LAWS, WORKLOAD, FLEET, shards=1000))
    assert found["ingest"].seconds == pytest.approx(240 + 5 + 5 * 2 + ROW_SECONDS * 1e6)
    assert found["extract"].seconds == pytest.approx(240 + 8 + 5 * 20)
    assert found["validate"].seconds == pytest.approx(240 + 6 + 1e6 * 0.001 / 200)
    assert found["extract"].worker_seconds == pytest.approx(50 * 348)
    assert found["ingest"].worker_seconds == pytest.approx(50 * 255)  # none works while the rows are divided
    assert found["train"].seconds == pytest.approx(3 + 0.00001 * (1e6 + 4 * (5e5 + 2.5e5)))
    assert [name for name, estimate in found.items() if estimate.on_workers] == ["ingest", "validate", "extract"]


def test_bytes_read_are_those_that_an_earlier_stage_wrote():
    found = by_name(estimate_stages(1000, LAWS, WORKLOAD, None, shards=1))
    assert found["ingest"].written == found["extract"].read == found["validate"].read == 20_000_000
    assert found["extract"].written == found["audit"].read == 5_000_100
    assert found["train"].read == pytest.approx(0.75 * 5_000_100)


def test_without_core_seconds_those_of_the_clock_count():
    laws = {"extract": LAWS["extract"]._replace(core_seconds=Law(0, 0))}
    (found,) = estimate_stages(1_000_000, laws, WORKLOAD, FLEET, shards=1000)
    assert found.seconds == pytest.approx(240 + 8 + 5 * 10)


def test_the_price_is_for_workers_by_the_stage_and_for_this_machine_all_the_time():
    estimates = estimate_stages(1_000_000, LAWS, WORKLOAD, FLEET, shards=1000)
    on_workers = (240 + 5 + 10) + (240 + 6 + 5) + (240 + 8 + 100)
    in_all = sum(estimate.seconds for estimate in estimates)
    assert price_stages(estimates, FLEET, 2, 0.05) == pytest.approx(0.05 * (50 * 4 * on_workers + 2 * in_all) / 3600)
    alone = estimate_stages(1000, LAWS, WORKLOAD, None, shards=1)
    seconds = sum(estimate.seconds for estimate in alone)
    assert price_stages(alone, None, 2, 3.6) == pytest.approx(2 * seconds / 1000)


@given(st.integers(1, 10**9), st.integers(1, 10**7), st.integers(1, 3000), st.integers(1, 64))
def test_shards_are_enough_for_all_workers_and_small_enough_where_names_and_images_allow(images, size, workers, vcpus):
    shards = plan_shards(images, size, Fleet(workers, vcpus))
    assert 1 <= shards <= MOST_SHARDS
    if shards < MOST_SHARDS and images / shards >= 2 * 32:  # neither bound is near
        assert shards >= SHARDS_PER_VCPU * workers * vcpus
        assert images / shards <= IMAGES_PER_SHARD
        assert images * size / shards <= SHARD_BYTES


def test_shards_for_one_machine_are_those_of_a_run():
    assert plan_shards(9145, 15_000, None) == choose_shards(9145) == 8


def test_a_hundred_million_images_have_as_many_shards_as_keep_them_small():
    assert plan_shards(10**8, 15_000, Fleet(500, 4)) == 83_334  # the next power of two has no room in names


@given(st.integers(1, 10**8), st.integers(1, 300), st.integers(1, 8))
def test_more_workers_never_take_longer(images, workers, vcpus):
    def seconds(count):
        return sum(row.seconds for row in estimate_stages(images, LAWS, WORKLOAD, Fleet(count, vcpus, 60), 1024))

    assert seconds(2 * workers) <= seconds(workers) + 1e-6


@given(st.integers(1, 10**8), st.sampled_from([None, FLEET]))
def test_more_images_never_take_less(images, fleet):
    few, more = (estimate_stages(count, LAWS, WORKLOAD, fleet, 1024) for count in (images, 2 * images))
    for one, other in zip(few, more, strict=True):
        assert one.seconds <= other.seconds + 1e-6
        assert one.read <= other.read and one.written <= other.written


def test_memory_grows_with_the_bottlenecks():
    less, more = (estimate_driver_bytes(images, 1280, WORKLOAD) for images in (10**6, 2 * 10**6))
    assert more - less == pytest.approx(5 * 4 * 1280 * 10**6)


def test_an_audit_of_a_sample_is_bounded_in_time_and_memory():
    sampled = replace(WORKLOAD, most_audited=100_000)
    (found,) = estimate_stages(10**8, {"audit": LAWS["audit"]}, sampled, FLEET, 1024)
    assert found.seconds == pytest.approx(2 + 0.001 * 1500 + 1e-9 * 100_000**2 / 2)
    less, more = (estimate_driver_bytes(images, 1280, sampled) for images in (10**7, 2 * 10**7))
    assert more - less == pytest.approx(1600 * 10**7)
