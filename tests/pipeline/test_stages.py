import os
import time
from dataclasses import dataclass, field
from inspect import signature
from pathlib import Path

import pytest

from components.errors import UserError
from components.outcomes import Work
from components.run_dir import RunDir
from components.storage.ownership import claim_files
from pipeline import pipeline as story
from pipeline.stages import Stage, Stages, StopAfterStage


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


def change(file, content="CONTENT"):
    """Write other content at a time of its own, however fast the test is."""
    file.write_text(content)
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 10**9))


def make_stages(run, progress, first=None, only=None):
    return Stages(run, progress, lambda name, images: f"options of {name}", first, only)


@pytest.fixture
def go(run, progress):
    """Run ingest -> extract -> train, and return which of them did something."""

    def once(first=None, only=None, fail=None, **settings):
        done, stages = [], make_stages(run, progress, first, only)

        def work(name):
            def make(setting, before, run):
                if name == fail:
                    raise RuntimeError(name)
                write(run, name)
                done.append(name)
                return Made(Work(1, 0, 1), name)

            return make

        made = None
        try:
            for name in ("ingest", "extract", "train"):
                made = stages.run(Stage(name, work(name), Made), settings.get(name), made)
                assert made == Made(Work(1, 0, 1), name)
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
def test_a_missing_or_changed_file_runs_its_stage_again_and_no_other(go, run, content, capsys):
    go()
    file = run.root / "extract" / "file"
    file.unlink() if content is None else change(file, content)
    assert go() == ["extract"]
    named = f"'{file}' has changed and is computed again" in capsys.readouterr().err
    assert named == (content is not None)
    assert go() == []


def test_a_changed_file_is_gone_before_its_stage_runs(run, progress):
    seen = []

    def work():
        seen.append((run.root / "extract" / "file").exists())
        write(run, "extract")
        return Made(Work(), "extract")

    for content in (None, "Content"):
        if content:
            change(run.root / "extract" / "file", content)
        make_stages(run, progress).run(Stage("extract", work, Made))
    assert seen == [False, False]


def test_what_a_stage_wrote_elsewhere_is_watched_too(run, progress):
    class MadeBeside(Made):
        def extra_paths(self, run):
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
            change(run.root / file)
        for _ in range(2):
            make_stages(run, progress).run(Stage("extract", work, MadeBeside))
    assert len(done) == 3


def test_a_stage_that_comes_out_otherwise_runs_those_after_it(run, progress):
    done = []

    def make(version):
        def work():
            done.append(version)
            write(run, f"export/{version}")
            return Made(Work(), f"export/{version}")

        return work

    def work(export):
        done.append("evaluate")
        (run.root / "evaluation").mkdir(exist_ok=True)
        return Made(Work(), "evaluation")

    for version in ("1", "2"):
        for _ in range(2):
            stages = make_stages(run, progress)
            export = stages.run(Stage("export", make(version), Made))
            stages.run(Stage("evaluate", work, Made), export)
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

        make_stages(run, progress, first="export").run(Stage("export", work, Made))

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
        change(run.root / "extract" / "file")  # as long as before
        return Made(Work(1, 0, 1), "extract")

    make_stages(run, progress).run(Stage("extract-other", overwrite, Made))
    assert go() == ["extract"]
    assert go() == []


def test_a_shared_file_that_a_stage_writes_anew_runs_the_other_stage_and_stays(run, progress):
    done = []

    def make(name, writes):
        def work():
            done.append(name)
            write(run, name)
            if writes:
                claim_files(run.root / "shared", ["file"])
                change(run.root / "shared" / "file", "x" * len(done))
            assert (run.root / "shared" / "file").exists()
            return MadeBeside(Work(), name)

        return Stage(name, work, MadeBeside)

    class MadeBeside(Made):
        def extra_paths(self, run):
            return [run.root / "shared"]

    def go():
        for name in ("finetune", "reextract"):
            make_stages(run, progress).run(make(name, name == "finetune"))

    go()
    go()
    assert done == ["finetune", "reextract"]
    (run.root / "finetune" / "file").unlink()
    go()
    go()
    assert done == ["finetune", "reextract"] * 2


def test_a_damaged_record_runs_its_stage_again(go, run):
    go()
    record = run.stages / "train.json"
    healthy = record.read_text()
    for content in ("{", healthy.replace('"items"', '"itens"'), healthy.replace('"files"', '"fires"')):
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


@dataclass(frozen=True)
class Inner:
    size: int = 1
    names: tuple = ("a",)


@dataclass(frozen=True)
class Settings:
    rate: float = 0.5
    inner: Inner = Inner()
    weights: dict = field(default_factory=dict)
    file: Path | None = None


@dataclass(frozen=True)
class Other(Settings):
    pass


@dataclass(frozen=True)
class Chosen:
    """Settings that name the files that count."""

    folder: Path

    @property
    def inputs(self):
        return [self.folder / "file"]


def count_runs(run, progress, *series):
    """Return how often a stage does something when it gets one input after another."""
    done = []

    def work(given, run):
        done.append(given)
        write(run, "extract")
        return Made(Work(), "extract")

    for given in series:
        make_stages(run, progress).run(Stage("extract", work, Made), given)
    return len(done)


@pytest.mark.parametrize(
    "changed",
    [
        Settings(rate=0.25),
        Settings(inner=Inner(size=2)),
        Settings(inner=Inner(names=("a", "b"))),
        Settings(weights={"cat": 2}),
        Settings(file=Path(__file__)),
        Other(),
        [Settings(), Settings()],
        None,
    ],
)
def test_any_change_of_what_a_stage_gets_runs_it_again(run, progress, changed):
    assert count_runs(run, progress, Settings(), Settings(), changed, changed, Settings()) == 3


def test_a_file_that_a_stage_gets_counts_by_its_state(run, progress, tmp_path):
    file = tmp_path / "file"
    for number, given in enumerate([file, Settings(file=file), Chosen(tmp_path)]):
        file.write_text("x" * (number + 1))
        assert count_runs(run, progress, given, given) == 1
        file.write_text("y" * (number + 10))
        (tmp_path / "another").write_text(str(number))
        assert count_runs(run, progress, given, given) == 1


def test_a_folder_around_the_files_that_count_does_not_count(run, progress, tmp_path):
    (tmp_path / "file").write_text("x")
    assert count_runs(run, progress, Chosen(tmp_path)) == 1
    (tmp_path / "another").write_text("x")
    assert count_runs(run, progress, Chosen(tmp_path)) == 0


def test_what_cannot_be_told_from_another_is_no_input(run, progress):
    with pytest.raises(TypeError, match="A stage cannot depend on object"):
        count_runs(run, progress, object())


def test_a_function_is_given_what_it_names_beside_its_inputs(run, progress):
    given = []

    def work(stages, first, options, second, progress, run):
        write(run, "extract")
        given.append((first, second, options, progress, dict(stages)))
        return Made(Work(), "extract")

    make_stages(run, progress).run(Stage("extract", work, Made), 1, 2)
    assert given == [(1, 2, "options of extract", progress, {})]
    with pytest.raises(ValueError, match="zip"):
        make_stages(run, progress).run(Stage("extract", work, Made), 1)


@pytest.mark.parametrize("stage", [value for value in vars(story).values() if isinstance(value, Stage)])
def test_a_stage_of_the_story_names_a_function_that_returns_its_outcome(stage):
    assert signature(stage.load()).return_annotation == stage.outcome.__name__
