import time
from dataclasses import dataclass

import pytest

from components.errors import UserError
from components.outcomes import Work
from components.run_dir import RunDir
from components.storage.ownership import claim_files
from pipeline.stages import Stages, StopAfterStage


@dataclass(frozen=True)
class Made:
    work: Work
    name: str

    def folder(self, run):
        return run.root / self.name


@pytest.fixture
def run(tmp_path):
    return RunDir(tmp_path / "run")


def write(run, name, content="content"):
    """Write a file as a stage does."""
    claim_files(run.root / name, ["file"])
    (run.root / name / "file").write_text(content)


@pytest.fixture
def go(run, progress):
    """Run ingest -> extract -> train, and return which of them did something."""

    def once(first=None, only=None, fail=None, **settings):
        done, stages = [], Stages(run, progress, first, only)

        def work(name):
            def make():
                if name == fail:
                    raise RuntimeError(name)
                write(run, name)
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


@pytest.mark.parametrize("content", [None, "con", "Content"])
def test_a_missing_or_damaged_file_runs_its_stage_again_and_no_other(go, run, content, capsys):
    go()
    file = run.root / "extract" / "file"
    file.unlink() if content is None else file.write_text(content)
    assert go() == ["extract"]
    named = f"'{file}' was damaged and is computed again" in capsys.readouterr().err
    assert named == (content is not None)
    assert go() == []


def test_a_damaged_file_is_gone_before_its_stage_runs(run, progress):
    seen = []

    def work():
        seen.append((run.root / "extract" / "file").exists())
        write(run, "extract")
        return Made(Work(), "extract")

    for content in (None, "Content"):
        if content:
            (run.root / "extract" / "file").write_text(content)
        Stages(run, progress).do("extract", Made, work)
    assert seen == [False, False]


def test_what_a_stage_wrote_elsewhere_is_watched_too(run, progress):
    class MadeBeside(Made):
        def beside(self, run):
            return [run.root / "other", run.root / "third"]

    def work():
        for name in ("extract", "other"):
            write(run, name)
        (run.root / "third").write_text("content")
        done.append(1)
        return MadeBeside(Work(), "extract")

    done = []
    for file in (None, "other/file", "third"):
        if file:
            (run.root / file).write_text("Content")
        for _ in range(2):
            Stages(run, progress).do("extract", MadeBeside, work)
    assert len(done) == 3


def test_a_stage_that_comes_out_otherwise_runs_those_after_it(run, progress):
    done = []

    def make(version):
        def work():
            done.append(version)
            write(run, f"export/{version}")
            return Made(Work(), f"export/{version}")

        return work

    def work():
        done.append("evaluate")
        (run.root / "evaluation").mkdir(exist_ok=True)
        return Made(Work(), "evaluation")

    for version in ("1", "2"):
        for _ in range(2):
            stages = Stages(run, progress)
            stages.do("export", Made, make(version))
            stages.do("evaluate", Made, work, after=["export"])
        (run.exports / version / "file").unlink()
    assert done == ["1", "evaluate", "2", "evaluate"]


def test_an_export_that_no_record_tells_of_is_removed_and_others_stay(run, progress):
    """What a stage leaves that is killed between its last rename and its record."""
    later = str(int(time.time()) + 1000)

    def export(version, killed=False):
        def work():
            write(run, f"export/{version}")
            if killed:
                raise KeyboardInterrupt
            return Made(Work(), f"export/{version}")

        Stages(run, progress, first="export").do("export", Made, work)

    write(run, "export/7")  # of a former run
    with pytest.raises(KeyboardInterrupt):
        export(later, killed=True)
    export(str(int(later) + 1))
    assert {folder.name for folder in run.exports.iterdir()} == {"7", str(int(later) + 1)}
    export(str(int(later) + 2))
    assert {folder.name for folder in run.exports.iterdir()} == {"7", str(int(later) + 1), str(int(later) + 2)}


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
    record = run.stages / "train.json"
    healthy = record.read_text()
    for content in ("{", healthy.replace('"items": 1', '"items": 2')):
        assert content != healthy
        record.write_text(content)
        assert go() == ["train"]


def test_a_file_beside_those_of_a_stage_is_no_part_of_its_record(go, run):
    go()
    (run.root / "extract" / "mine").write_text("one")
    assert go(first="extract") == ["extract", "train"]
    (run.root / "extract" / "mine").write_text("two")
    assert go() == []
    assert (run.root / "extract" / "mine").read_text() == "two"
