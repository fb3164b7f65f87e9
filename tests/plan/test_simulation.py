import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.plan.simulation import Fleet, ideal_makespan, run_shards, simulate_makespan

SECONDS = st.lists(st.floats(0.01, 1000), min_size=1, max_size=60).map(np.array)
COUNTS = st.integers(1, 12)


def run(seconds, fleet, seed=0):
    return run_shards(np.asarray(seconds, float), fleet, np.random.default_rng(seed))


@given(SECONDS)
def test_one_worker_takes_the_sum(seconds):
    assert run(seconds, Fleet(1)) == pytest.approx(seconds.sum())


@given(st.integers(1, 200), COUNTS, COUNTS)
def test_equal_shards_go_in_waves(shards, workers, slots):
    fleet = Fleet(workers, slots, startup=7)
    waves = math.ceil(shards / (workers * slots))
    assert run(np.full(shards, 5.0), fleet) == pytest.approx(7 + 5 * waves)
    assert ideal_makespan(shards, 5.0, fleet) == pytest.approx(7 + 5 * waves)


@given(SECONDS, COUNTS)
def test_no_schedule_beats_the_mean_or_the_longest_and_ours_is_within_grahams_bound_of_them(seconds, workers):
    # R. L. Graham, "Bounds on multiprocessing timing anomalies", SIAM J. Appl. Math. 17 (1969).
    mean, longest = seconds.sum() / workers, seconds.max()
    found = run(seconds, Fleet(workers))
    assert found >= max(mean, longest) - 1e-6
    assert found <= mean + longest * (1 - 1 / workers) + 1e-6


@given(st.integers(1, 100), COUNTS)
def test_equal_shards_take_no_longer_on_more_workers(shards, workers):
    times = [run(np.full(shards, 5.0), Fleet(count)) for count in (workers, workers + 1, 2 * workers)]
    assert times == sorted(times, reverse=True)


@given(SECONDS, COUNTS, st.integers(0, 1000))
def test_slow_and_lost_workers_never_help(seconds, workers, seed):
    at_best = seconds.sum() / workers
    assert run(seconds, Fleet(workers, slow_share=0.3, slowdown=4), seed) >= at_best - 1e-6
    assert run(seconds, Fleet(workers, startup=10, losses_per_hour=2), seed) >= at_best + 10 - 1e-6


def test_slow_workers_alone_take_as_many_times_as_long():
    assert run(np.full(6, 5.0), Fleet(3, slow_share=1, slowdown=4)) == pytest.approx(2 * 20)


@pytest.mark.parametrize("startup", [0.0, 120.0])
def test_a_lost_worker_does_its_shard_again(startup):
    # With losses at rate r, a task of length d that starts anew each time takes (e^rd - 1) (1/r + startup) on average.
    rate, seconds = 1.5, 1800.0
    tries = math.exp(rate * seconds / 3600) - 1
    expected = startup + tries * (3600 / rate + startup)
    random = np.random.default_rng(0)
    fleet = Fleet(1, startup=startup, losses_per_hour=rate)
    found = [run_shards(np.array([seconds]), fleet, random) for _ in range(4000)]
    assert np.mean(found) == pytest.approx(expected, rel=0.05)


def test_a_loss_takes_all_that_its_worker_has_in_hand():
    # So two equal shards in one worker's hands take as long as one alone.
    together = [run([1800.0, 1800.0], Fleet(1, 2, losses_per_hour=2), seed) for seed in range(300)]
    alone = [run([1800.0], Fleet(1, 1, losses_per_hour=2), seed) for seed in range(300)]
    assert together == pytest.approx(alone)


def test_other_workers_take_over_a_lost_shard():
    # The chance that none of 20 workers is lost in 10 minutes at 6 an hour is e^-20.
    fleet = Fleet(20, losses_per_hour=6, startup=0)
    assert run(np.full(20, 600.0), fleet) > 600


def test_equal_seeds_give_equal_figures_in_order():
    fleet = Fleet(5, 2, startup=60, slow_share=0.1, slowdown=3, losses_per_hour=0.5)
    first, again = (simulate_makespan(100, 50.0, 0.3, fleet, draws=20) for _ in range(2))
    assert first == again
    assert first.ideal < first.median < first.percentile_90
    assert first != simulate_makespan(100, 50.0, 0.3, fleet, draws=20, seed=1)


def test_a_spread_keeps_the_mean():
    one = simulate_makespan(20_000, 5.0, 0.5, Fleet(1), draws=1).median
    assert one == pytest.approx(20_000 * 5.0, rel=0.02)
