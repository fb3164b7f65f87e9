import collections
import json
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.data.image_file import ImageFile
from components.plan.trials import MIN_PER_CLASS, Cost, TrialRun, draw_sample, read_trial, read_trials
from components.run_dir import STAGES, TUNING_STAGES, RunDir
from components.storage.files import write_json
from components.storage.ownership import MARK


def listing(*sizes):
    """Return files of classes with so many images each."""
    return [
        ImageFile(f"c{number}/{image}", "", f"c{number}", "", "", "", 0, 0)
        for number, size in enumerate(sizes)
        for image in range(size)
    ]


def count(files):
    return collections.Counter(file.text for file in files)


def test_each_class_has_its_share():
    assert count(draw_sample(listing(1000, 500, 500), 200)) == {"c0": 100, "c1": 50, "c2": 50}


def test_small_classes_keep_enough_for_three_splits():
    assert count(draw_sample(listing(1000, 10), 50)) == {"c0": 50, "c1": MIN_PER_CLASS}


def test_of_very_many_classes_the_largest_stand_for_all():
    sample = count(draw_sample(listing(*range(10, 110)), 90))
    assert len(sample) == 30
    assert set(sample) == {f"c{number}" for number in range(70, 100)}


def test_classes_too_small_for_three_splits_are_left_out():
    assert set(count(draw_sample(listing(30, 2, 30), 30))) == {"c0", "c2"}


@given(st.lists(st.integers(3, 40), min_size=2, max_size=10), st.integers(6, 200), st.integers(0, 5))
def test_a_sample_is_a_part_of_the_files_in_their_order(sizes, wanted, seed):
    files = listing(*sizes)
    sample = draw_sample(files, wanted, seed)
    places = [files.index(file) for file in sample]
    assert places == sorted(set(places))
    assert sample == draw_sample(files, wanted, seed)
    if wanted >= len(files):
        assert sample == files


def test_a_finished_run_tells_what_its_stages_took(toy_run):
    trial = read_trial(toy_run)
    assert (trial.images, trial.dim) == (180, 48)
    assert list(trial.stages) == [stage for stage in STAGES if stage not in TUNING_STAGES]
    for stage, cost in trial.stages.items():
        assert cost.seconds > 0 and cost.core_seconds > 0, stage
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


def test_trials_are_kept_for_their_key_alone(tmp_path):
    file = tmp_path / "throughput.json"
    assert read_trials(file, "key") == []
    stages = {"ingest": Cost(1.5, 2.5, 300), "extract": Cost(4.0, 0.0, 10)}
    trials = [TrialRun(10, 48, stages), TrialRun(40, 48, stages)]
    write_json(file, {"key": "key", "trials": trials})
    assert read_trials(file, "key") == trials
    assert read_trials(file, "other") == []


@pytest.mark.parametrize("content", [[], {}, {"key": "key", "trials": [{"images": 1, "dim": 2}]}])
def test_a_file_that_holds_no_trials_counts_as_none(tmp_path, content):
    write_json(tmp_path / "throughput.json", content)
    assert read_trials(tmp_path / "throughput.json", "key") == []
