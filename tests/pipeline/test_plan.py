import json
import shutil

import pytest
from toys import write_config

import pipeline.plan
from components.plan.trials import START, Timing, Trial, TrialRuns, read_trial_runs, write_trial_runs
from components.run_dir import STAGES, TUNING_STAGES, RunDir
from components.storage.ownership import MARK, claim_files
from pipeline.cli import main
from pipeline.load_config import load_config
from pipeline.trial_runs import trial_key

RUN_STAGES = [stage for stage in STAGES if stage not in TUNING_STAGES]


@pytest.fixture
def finished(toy_run, toy_config, tmp_path):
    """The config of a copy of the finished toy run, and its run directory."""
    shutil.copytree(toy_run.root, tmp_path / "run")
    config = write_config(tmp_path / "toy.yaml", **{**toy_config, "output_dir": str(tmp_path / "run")})
    return config, RunDir(tmp_path / "run")


def keep_trials(config, **others):
    """Write trial runs of 100 and 1,000 images: 10 s and 0.01 s an image by the clock, twice that of cores.

    others are timings of stages that take the same whatever the number of images.
    """
    loaded = load_config(config, [])
    run = RunDir(loaded.run_folder)
    claim_files(run.root, [run.throughput.name])

    def trial(images):
        timing = Timing(10 + 0.01 * images, 20 + 0.02 * images, 1000 * images)
        return Trial(images, 3, 48, {START: Timing(5.0, 4.0, 0), **dict.fromkeys(RUN_STAGES, timing), **others})

    write_trial_runs(run.throughput, trial_key(loaded), TrialRuns([trial(100), trial(1000)], (0.0, 0.0)))


@pytest.fixture
def kept(toy_config, tmp_path):
    """The config of a run that was never made, of which trial runs are kept."""
    config = write_config(tmp_path / "new.yaml", **{**toy_config, "output_dir": str(tmp_path / "new")})
    keep_trials(config)
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

    monkeypatch.setattr(pipeline.plan, "measure", None)  # nothing is measured from now on
    large = answer(capsys, config, "--images", "1e6", "--workers", 10, "--vcpus", 2, "--price", 0.05)
    assert large["images"] == 1_000_000 and large["measured"] == [small, last]
    assert large["fleet"]["workers"] == 10 and large["cost"] > 0
    assert [row["workers"] for row in large["simulations"]] == [10, 10, 5, 20]
    assert large["stages"]["extract"]["on_workers"] and not large["stages"]["train"]["on_workers"]


def test_a_plan_says_what_was_worked_out_by_hand(kept, capsys):
    document = answer(capsys, kept, "--images", 10_000)
    assert document["stages"]["extract"]["seconds"] == pytest.approx(10 + 100)
    assert document["stages"]["extract"]["core_seconds"] == pytest.approx(20 + 200)
    assert document["stages"][START]["seconds"] == pytest.approx(5)
    assert document["stages"]["extract"]["read"] == pytest.approx(10_000_000)
    assert document["fleet"] is None and document["cost"] is None and document["simulations"] == []
    # 100 shards of 100 images, 2 s of a core each, on 20 vCPUs that start within a minute.
    workers = ["--workers", 10, "--vcpus", 2, "--startup", 1, "beam.shards=100"]
    document = answer(capsys, kept, "--images", 10_000, *workers)
    assert document["shards"] == 100
    assert not document["notes"]
    assert document["stages"]["extract"]["seconds"] == pytest.approx(60 + 10 + 5 * 2)
    assert document["stages"]["extract"]["worker_seconds"] == pytest.approx(10 * 80)
    assert document["simulations"][0]["ideal"] == pytest.approx(60 + 5 * 4)  # ingest and extract


def test_a_stage_that_took_no_longer_over_more_images_is_named(toy_config, tmp_path, capsys):
    config = write_config(tmp_path / "new.yaml", **{**toy_config, "output_dir": str(tmp_path / "new")})
    keep_trials(config, ingest=Timing(9.0, 9.0, 1), report=Timing(2.0, 2.0, 1), extract=Timing(9.0, 0.0, 1))
    for words in ([], ["--workers", 10]):
        notes = answer(capsys, config, "--images", 10_000, *words)["notes"]
        assert sum("took no longer than the smaller for ingest, extract, which counts" in note for note in notes) == 1
    assert not answer(capsys, config, "--images", 500)["notes"]


def test_a_plan_is_a_table_and_a_last_line(kept, capsys):
    words = ["--images", "1e8", "--workers", "500", "--price", "0.05", "beam.shards=null"]
    assert main(["plan", str(kept), *words]) == 0
    output = capsys.readouterr().out
    assert "83,334 of 1,200 images" in output
    assert "simulated with stragglers and lost workers" in output
    assert "note: This is 100,000 times what was measured" in output
    assert output.splitlines()[-1].startswith("100,000,000 images: ") and ", cost " in output.splitlines()[-1]
    assert main(["plan", str(kept), "--images", "1e8", "--quiet"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_trial_runs_of_another_config_do_not_count(kept, capsys):
    assert main(["plan", str(kept), "data.path=nowhere", "augment.flip=true"]) == 2
    assert "There is no folder 'nowhere'" in capsys.readouterr().err


def test_the_last_run_alone_will_do_where_the_images_are_gone_and_the_plan_says_so(finished, capsys):
    config, run = finished
    document = answer(capsys, config, "data.path=nowhere", "--images", 360)
    assert document["measured"] == [180]
    assert "All was measured at 180 images alone" in document["notes"][0]
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


def test_shards_that_are_lost_before_they_are_done_are_refused(kept, capsys):
    words = ["--images", "1e8", "--workers", "5", "--lost", "10", "beam.shards=10"]
    assert main(["plan", str(kept), *words]) == 2
    assert "set beam.shards to more than 10 or --lost to less" in capsys.readouterr().err


def test_the_shards_of_the_config_are_kept_and_better_ones_named(kept, capsys):
    document = answer(capsys, kept, "--images", "1e6", "--workers", 5, "beam.shards=20")
    assert document["shards"] == 20
    assert "beam.shards is 20, which the plan keeps: 1,024 would suit" in document["notes"][-1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--images", "0"], "'0' is not a number of 1 or more"),
        (["--images", "many"], "'many' is not a number of 0 or more"),
        (["--price", "-1"], "'-1' is not a number of 0 or more"),
        (["--lost", "inf"], "'inf' is not a number of 0 or more"),
        (["--workers", "0"], "'0' is not a number of 1 or more"),
    ],
)
def test_numbers_that_are_none_are_refused(kept, capsys, words, said):
    with pytest.raises(SystemExit) as raised:
        main(["plan", str(kept), *words])
    assert raised.value.code == 2
    assert said in capsys.readouterr().err


def test_what_is_measured_again_stands_beside_what_is_kept(kept, capsys, monkeypatch):
    more = Trial(200, 3, 48, {stage: Timing(1.0, 1.0, 1) for stage in (START, *RUN_STAGES)})
    monkeypatch.setattr(pipeline.plan, "measure", lambda *_: TrialRuns([more], (0.0, 0.0)))
    assert answer(capsys, kept, "--measure")["measured"] == [100, 200, 1000]
    loaded = load_config(kept, [])
    assert len(read_trial_runs(RunDir(loaded.run_folder).throughput, trial_key(loaded)).trials) == 3
