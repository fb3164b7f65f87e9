from dataclasses import dataclass

import pytest

from components.errors import UserError
from components.features import RunDir, Work
from pipeline.stages import Stages, StopAfterStage, open_run_folder


@dataclass(frozen=True)
class Made:
    work: Work
    name: str

    def folder(self, run):
        return run.root / self.name


@pytest.fixture
def run(tmp_path):
    return RunDir(tmp_path / "run")


@pytest.fixture
def go(run, progress):
    """Run ingest -> extract -> train, and return which of them did something."""

    def once(first=None, only=None, fail=None, **settings):
        done, stages = [], Stages(run, progress, first, only)

        def work(name):
            def make():
                if name == fail:
                    raise RuntimeError(name)
                (run.root / name).mkdir(parents=True, exist_ok=True)
                (run.root / name / "file").write_text("content")
                done.append(name)
                return Made(Work(1, 0, 1), name)

            return make

        try:
            for name, after in (("ingest", []), ("extract", ["ingest"]), ("train", ["extract"])):
                assert stages.do(name, Made, work(name), [settings.get(name)], after) == Made(Work(1, 0, 1), name)
        except (StopAfterStage, RuntimeError):
            pass
        return done

    return once


def test_what_is_done_is_not_done_again(go):
    assert go() == ["ingest", "extract", "train"]
    assert go() == []


def test_a_changed_setting_runs_its_stage_and_those_after_it(go):
    go()
    assert go(extract=1) == ["extract", "train"]
    assert go(extract=1) == []
    assert go(extract=1, train=2) == ["train"]
    assert go(extract=1, train=2, ingest=3) == ["ingest", "extract", "train"]


def test_from_runs_the_rest_again_and_only_runs_one(go):
    go()
    assert go(first="extract") == ["extract", "train"]
    assert go(only="extract") == ["extract"]


def test_only_needs_what_stands_before_it(go):
    with pytest.raises(UserError, match="Stage 'ingest' has no finished result"):
        go(only="train")


@pytest.mark.parametrize("harm", ["delete", "truncate"])
def test_a_missing_or_shortened_file_runs_its_stage_again(go, run, harm):
    go()
    file = run.root / "extract" / "file"
    file.unlink() if harm == "delete" else file.write_text("con")
    assert go()[0] == "extract"


def test_a_stage_that_failed_is_not_taken_for_done(go):
    go()
    assert go(first="extract", fail="extract") == []
    assert go() == ["extract"]


def test_a_stage_whose_files_another_has_written_runs_again(go, run, progress):
    go()

    def overwrite():
        (run.root / "extract" / "file").write_text("CONTENT")  # as long as before
        return Made(Work(1, 0, 1), "extract")

    Stages(run, progress).do("extract-other", Made, overwrite)
    assert go() == ["extract"]
    assert go() == []


def test_a_damaged_record_runs_its_stage_again(go, run):
    go()
    (run.stages / "train.json").write_text("{")
    assert go() == ["train"]


def test_a_run_directory_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"Cannot write to .*file/run.*set output_dir"):
        open_run_folder(RunDir(tmp_path / "file" / "run"))
