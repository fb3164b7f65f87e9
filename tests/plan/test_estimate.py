import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.plan.estimate import BASE_BYTES, ROW_BYTES, START, RunPlan, fit_line, make_plan
from components.plan.trials import Cost, TrialRun

PARTS = st.floats(0, 1e6)
# Seconds of the clock, seconds of cores, bytes: what a stage takes whatever its size, and for an image.
FIXED, RATE = Cost(10.0, 20.0, 500.0), Cost(0.01, 0.02, 3000.0)
STAGES = ("ingest", "validate", "extract", "audit", "train", "export", "evaluate", "report")


def take(images):
    return Cost(*(fixed + rate * images for fixed, rate in zip(FIXED, RATE, strict=True)))


def trial(images, **others):
    """A run whose stages all take FIXED and RATE but those of others."""
    stages = {**dict.fromkeys(STAGES, take(images)), START: Cost(5.0, 4.0, 0.0), "export": FIXED}
    return TrialRun(images, 1280, {**stages, **others})


def plan(images, trials=None, most_audited=100_000, worker_cores=0, price=None) -> RunPlan:
    trials = trials or [trial(300), trial(1500)]
    return make_plan(trials, images, most_audited, cores=2, worker_cores=worker_cores, price=price)


@given(PARTS, PARTS, st.floats(1, 1e6), st.floats(1.5, 100))
def test_two_sizes_tell_the_fixed_part_from_the_rate(fixed, rate, size, ratio):
    sizes = [size, ratio * size]
    costs = [fixed + rate * some for some in sizes]
    found = fit_line(sizes, costs)
    slope, intercept = np.polyfit(sizes, costs, 1)
    assert np.polyval(found[::-1], sizes) == pytest.approx(np.polyval([slope, intercept], sizes), rel=1e-6, abs=1e-3)
    assert min(found) >= 0


def test_costs_that_fall_have_no_rate_and_those_that_grow_faster_no_fixed_part():
    assert fit_line([1, 2], [4.0, 3.0]) == (4.0, 0.0)
    assert fit_line([1, 2], [1.0, 5.0]) == (0.0, 2.5)


def test_of_runs_of_one_size_the_median_counts():
    assert fit_line([10, 10, 10, 20], [5.0, 500.0, 6.0, 11.0]) == pytest.approx((1.0, 0.5))


def test_one_size_alone_is_taken_for_a_rate():
    assert fit_line([50, 50, 50], [10.0, 12.0, 40.0]) == (0.0, 12.0 / 50)


def test_each_stage_takes_its_fixed_part_and_so_much_per_image():
    found = plan(10_000)
    assert found.stages["extract"] == pytest.approx(take(10_000))
    assert found.seconds == pytest.approx(5 + 10 + 6 * (10 + 100) + (10 + 50))
    assert found.on_workers == [] and found.cost is None and found.measured == [300, 1500]


def test_start_export_report_and_audit_are_bounded():
    found = plan(10**8)
    assert found.stages[START] == pytest.approx(Cost(5.0, 4.0, 0.0))
    assert found.stages["export"] == pytest.approx(FIXED)
    assert found.stages["report"] == pytest.approx(take(5000))
    assert found.stages["audit"] == pytest.approx(take(100_000))


def test_workers_share_the_core_seconds_of_beam_stages():
    found = plan(1_000_000, worker_cores=80)
    assert found.on_workers == ["ingest", "validate", "extract", "evaluate"]
    assert found.stages["extract"].seconds == pytest.approx(10 + 0.02 * 1_000_000 / 80)
    assert found.stages["extract"].core_seconds == pytest.approx(20 + 0.02 * 1_000_000)
    assert found.stages["train"].seconds == pytest.approx(10 + 0.01 * 1_000_000)


def test_the_price_is_for_workers_by_the_stage_and_for_this_machine_all_the_time():
    alone, shared = plan(1_000_000, price=0.36), plan(1_000_000, worker_cores=80, price=0.36)
    assert alone.cost == pytest.approx(0.36 / 3600 * 2 * alone.seconds)
    on_workers = sum(shared.stages[stage].seconds for stage in shared.on_workers)
    assert shared.cost == pytest.approx(0.36 / 3600 * (2 * shared.seconds + 80 * on_workers))


@given(st.integers(1, 10**8), st.integers(1, 3000))
def test_more_workers_never_take_longer_and_more_images_never_less(images, cores):
    assert plan(images, worker_cores=2 * cores).seconds <= plan(images, worker_cores=cores).seconds
    assert plan(2 * images, worker_cores=cores).seconds >= plan(images, worker_cores=cores).seconds


def test_memory_grows_with_the_audited_bottlenecks_then_with_the_list_of_images():
    assert plan(50_000).driver_bytes == pytest.approx(BASE_BYTES + 5 * 4 * 1280 * 50_000)
    assert plan(10**8).driver_bytes == pytest.approx(BASE_BYTES + ROW_BYTES * 10**8)


def test_a_plan_within_what_was_measured_has_no_notes():
    assert plan(1500).notes == []


def test_notes_tell_of_one_size_of_a_far_extrapolation_and_of_the_pairs_of_the_audit():
    one, far, pairs = plan(3_000_000, [trial(300)], most_audited=20_000).notes
    assert "Only runs of 300 images were measured" in one
    assert "This is 10,000 times the measured size" in far
    assert "grows with the square of their number up to 20,000" in pairs


def test_a_stage_that_took_no_longer_over_more_images_is_named():
    # On workers the seconds of cores count.
    flat = {"validate": Cost(9.0, 9.0, 1.0)}
    noisy = [trial(300, **flat, train=take(1500), ingest=take(300)._replace(seconds=99.0)), trial(1500, **flat)]
    assert "took no longer than the smaller for ingest, validate, train, so" in plan(10_000, noisy).notes[-1]
    assert "took no longer than the smaller for validate, train, so" in plan(10_000, noisy, worker_cores=4).notes[-1]
