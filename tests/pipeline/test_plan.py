import json
import shutil
import subprocess

import pytest
from toys import write_config

import pipeline.plan
from components.plan.estimate import START
from components.plan.trials import Cost, TrialRun, read_trials
from components.run_dir import STAGES, TUNING_STAGES, RunDir
from components.storage.files import write_json
from components.storage.ownership import MARK, claim_files
from pipeline.cli import main, parse_arguments
from pipeline.load_config import load_config
from pipeline.plan import trial_key

RUN_STAGES = [stage for stage in STAGES if stage not in TUNING_STAGES]


@pytest.fixture
def finished(toy_run, toy_config, tmp_path):
    """The config of a copy of the finished toy run, and its run directory."""
    shutil.copytree(toy_run.root, tmp_path / "run")
    config = write_config(tmp_path / "toy.yaml", **{**toy_config, "output_dir": str(tmp_path / "run")})
    return config, RunDir(tmp_path / "run")


@pytest.fixture
def kept(toy_config, tmp_path):
    """The config of a run that was never made, of which trial runs of 100 and 1,000 images are kept."""
    config = write_config(tmp_path / "new.yaml", **{**toy_config, "output_dir": str(tmp_path / "new")})
    loaded = load_config(config, [])
    run = RunDir(loaded.run_folder)
    claim_files(run.root, [run.throughput.name])

    def trial(images):
        cost = Cost(10 + 0.01 * images, 20 + 0.02 * images, 1000 * images)
        return TrialRun(images, 48, {START: Cost(5.0, 4.0, 0), **dict.fromkeys(RUN_STAGES, cost)})

    write_json(run.throughput, {"key": trial_key(loaded), "trials": [trial(100), trial(1000)]})
    return config


def answer(capsys, *words):
    """Run topgraft plan --json; return its document."""
    capsys.readouterr()
    assert main(["plan", *map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_plan_follows_from_the_last_run_and_a_trial_run_that_is_then_kept(finished, capsys, monkeypatch):
    config, run = finished
    before = {path: path.stat().st_mtime_ns for path in run.root.rglob("*") if path.is_file()}
    document = answer(capsys, config)
    assert document["images"] == 181  # one of them broken
    small, last = document["measured"]
    assert small < last == 180
    assert list(document["stages"]) == [START, *RUN_STAGES]
    assert all(stage["seconds"] > 0 for stage in document["stages"].values())
    assert document["seconds"] == pytest.approx(sum(stage["seconds"] for stage in document["stages"].values()))
    after = {path: path.stat().st_mtime_ns for path in run.root.rglob("*") if path.is_file()}
    listed = (run.throughput, run.root / MARK)
    assert after == {**before, **{path: after[path] for path in listed}}  # nothing of the run itself has changed

    monkeypatch.setattr(pipeline.plan, "run_trials", None)  # nothing is measured from now on
    large = answer(capsys, config, "--images", "1e6", "--workers", 10, "--vcpus", 2, "--price", 0.05)
    assert large["images"] == 1_000_000 and large["measured"] == [small, last]
    assert large["worker_cores"] == 20 and large["cost"] > 0
    assert large["on_workers"] == ["ingest", "validate", "extract", "evaluate"]


def test_a_plan_says_what_was_worked_out_by_hand(kept, capsys):
    document = answer(capsys, kept, "--images", 10_000)
    assert document["stages"]["extract"]["seconds"] == pytest.approx(10 + 100)
    assert document["stages"]["extract"]["core_seconds"] == pytest.approx(20 + 200)
    assert document["stages"]["extract"]["written"] == pytest.approx(10_000_000)
    assert document["stages"][START]["seconds"] == pytest.approx(5)
    assert document["cost"] is None
    document = answer(capsys, kept, "--images", 10_000, "--workers", 10, "--vcpus", 2)
    assert document["stages"]["extract"]["seconds"] == pytest.approx(10 + 200 / 20)
    assert document["stages"]["train"]["seconds"] == pytest.approx(10 + 100)


def test_a_plan_is_a_table_and_a_last_line(kept, capsys):
    assert main(["plan", str(kept), "--images", "1e8", "--workers", "500", "--price", "0.05"]) == 0
    output = capsys.readouterr().out
    assert "memory of the command: 38.8 GiB" in output
    assert "note: This is 100,000 times the measured size" in output
    assert output.splitlines()[-1].startswith("100,000,000 images: ") and ", cost " in output.splitlines()[-1]
    assert main(["plan", str(kept), "--images", "1e8", "--quiet"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_splits_that_trial_runs_do_not_have_are_noted(kept, capsys):
    (note,) = answer(capsys, kept, "--images", 500, "data.split.train_per_class=5")["notes"]
    assert "ignore data.split.train_per_class" in note


def test_trial_runs_of_another_config_do_not_count(kept, capsys):
    assert main(["plan", str(kept), "data.path=nowhere", "augment.flip=true"]) == 2
    assert "There is no folder 'nowhere'" in capsys.readouterr().err


def test_the_last_run_alone_will_do_where_the_images_are_gone_and_the_plan_says_so(finished, capsys):
    config, run = finished
    document = answer(capsys, config, "data.path=nowhere", "--images", 360)
    assert document["measured"] == [180]
    assert "Only runs of 180 images were measured" in document["notes"][0]
    record = json.loads((run.stages / "extract.json").read_text())
    assert document["stages"]["extract"]["seconds"] == pytest.approx(2 * record["seconds"])


def test_with_no_data_and_no_run_a_plan_is_refused_in_one_sentence(toy_config, tmp_path, capsys):
    config = write_config(
        tmp_path / "c.yaml", **{**toy_config, "data": {"path": "nowhere"}, "output_dir": str(tmp_path / "run")}
    )
    assert main(["plan", str(config), "--images", "1e8"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("topgraft: There is no folder 'nowhere'")
    assert not (tmp_path / "run").exists()


def test_a_trial_run_that_fails_is_one_sentence_with_what_it_says(toy_config, tmp_path, capsys):
    for name in ("cat", "dog"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(6):
            (tmp_path / "images" / name / f"{number}.jpg").write_bytes(b"\xff\xd8\xff no more")
    values = {**toy_config, "data": {"path": str(tmp_path / "images")}, "output_dir": str(tmp_path / "run")}
    assert main(["plan", str(write_config(tmp_path / "c.yaml", **values))]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "A trial run over 6 of the images failed (The train split has no image at all" in line
    assert not (tmp_path / "run" / "throughput.json").exists()


def test_trial_runs_over_a_folder_alone_read_the_sample_in_its_place(toy_config, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tried = []

    def refuse(command, **settings):
        options = parse_arguments(command[3:])
        tried.append(load_config(options.place, options.overrides))
        return subprocess.CompletedProcess(command, 2, "", "topgraft: enough")

    monkeypatch.setattr(subprocess, "run", refuse)
    assert main(["plan", toy_config["data"]["path"], "name=t", "train.epochs=3"]) == 2
    assert "(enough)" in capsys.readouterr().err
    (config,) = tried
    assert (config.data.path.rpartition("/")[2], config.name, config.train.epochs) == ("images.csv", "t", 3)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--images", "0"], "'0' is not a number of 1 or more"),
        (["--images", "many"], "'many' is not a number of 0 or more"),
        (["--price", "-1"], "'-1' is not a number of 0 or more"),
        (["--price", "inf"], "'inf' is not a number of 0 or more"),
        (["--workers", "0"], "'0' is not a number of 1 or more"),
    ],
)
def test_numbers_that_are_none_are_refused(kept, capsys, words, said):
    assert main(["plan", str(kept), *words]) == 2
    assert said in capsys.readouterr().err


def test_what_is_measured_again_stands_beside_what_is_kept(kept, capsys, monkeypatch):
    more = TrialRun(200, 48, dict.fromkeys((START, *RUN_STAGES), Cost(1.0, 1.0, 1)))
    monkeypatch.setattr(pipeline.plan, "run_trials", lambda *_: [more])
    assert answer(capsys, kept, "--measure")["measured"] == [100, 200, 1000]
    loaded = load_config(kept, [])
    assert len(read_trials(RunDir(loaded.run_folder).throughput, trial_key(loaded))) == 3
