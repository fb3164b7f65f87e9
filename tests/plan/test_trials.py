import json
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.plan.trials import (
    Law,
    Timing,
    Trial,
    TrialRuns,
    fit_law,
    measure_shards,
    read_trial,
    read_trial_runs,
    write_trial_runs,
)
from components.run_dir import STAGES, TUNING_STAGES, RunDir
from components.storage.ownership import MARK

PARTS = st.floats(0, 1e6)


@given(PARTS, PARTS, st.floats(1, 1e6), st.floats(1.5, 100))
def test_two_sizes_tell_the_fixed_part_from_the_rate(fixed, each, units, ratio):
    law = fit_law([units, ratio * units], [fixed + each * units, fixed + each * ratio * units])
    for some in (units, 2 * units, 50 * units):
        assert law.cost(some) == pytest.approx(fixed + each * some, rel=1e-4, abs=1e-6)


def test_costs_that_fall_have_no_rate_and_those_that_grow_faster_no_fixed_part():
    falling, rising = fit_law([1, 2], [4.0, 3.0]), fit_law([1, 2], [1.0, 5.0])
    assert falling.each == 0 and 3 < falling.fixed < 4
    assert rising.fixed == 0 and 1 < rising.each < 2.5


def test_of_runs_of_one_size_the_median_counts():
    assert fit_law([10, 10, 10, 20], [5.0, 500.0, 6.0, 11.0]) == pytest.approx(Law(1.0, 0.5))


def test_one_size_alone_is_taken_for_a_rate():
    assert fit_law([50, 50, 50], [10.0, 12.0, 40.0]) == Law(0.0, 12.0 / 50)


def test_a_cost_of_nothing_stays_nothing():
    assert fit_law([1, 2], [0.0, 0.0]).cost(1e6) == pytest.approx(0, abs=1e-2)


def test_a_finished_run_tells_what_its_stages_took(toy_run):
    trial = read_trial(toy_run)
    assert (trial.images, trial.classes, trial.dim) == (180, 3, 48)
    assert list(trial.stages) == [stage for stage in STAGES if stage not in TUNING_STAGES]
    for stage, timing in trial.stages.items():
        assert timing.seconds > 0 and timing.core_seconds > 0, stage
    files = [file.stat().st_size for file in toy_run.examples.rglob("*") if file.name != MARK]
    assert trial.stages["ingest"].written == sum(files)


@pytest.mark.parametrize("change", ["missing", "damaged", "reused"])
def test_a_run_that_did_not_do_all_of_it_tells_nothing(toy_run, tmp_path, change):
    run = RunDir(tmp_path)
    shutil.copytree(toy_run.stages, run.stages)
    file = run.stages / "extract.json"
    if change == "missing":
        file.unlink()
    elif change == "damaged":
        file.write_text("{")
    else:
        record = json.loads(file.read_text())
        record["outcome"]["work"]["reused"] = 7
        file.write_text(json.dumps(record))
    assert read_trial(run) is None


def test_shards_are_as_different_as_their_bytes(tmp_path):
    run = RunDir(tmp_path)
    run.examples.mkdir()
    assert measure_shards(run) == 0
    for shard, (train, test) in enumerate([(60, 40), (150, 50), (200, 100)]):  # 100, 200 and 300 bytes
        (run.examples / f"train-{shard:05d}-of-00003.tfrecord").write_bytes(bytes(train))
        (run.examples / f"test-{shard:05d}-of-00003.tfrecord").write_bytes(bytes(test))
    assert measure_shards(run) == pytest.approx(0.5)


def test_what_was_measured_is_kept_for_its_key_alone(tmp_path):
    file = tmp_path / "throughput.json"
    assert read_trial_runs(file, "key") is None
    stages = {"ingest": Timing(1.5, 2.5, 300), "extract": Timing(4.0, 0.0, 10)}
    measured = TrialRuns([Trial(10, 2, 48, stages), Trial(40, 2, 48, stages)], (1e-8, 2e-8))
    write_trial_runs(file, "key", measured)
    assert read_trial_runs(file, "key") == measured
    assert read_trial_runs(file, "other") is None
    file.write_text("[]")
    assert read_trial_runs(file, "key") is None
