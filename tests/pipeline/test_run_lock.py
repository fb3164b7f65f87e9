import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from toys import refusal

from components.errors import UserError
from components.run_dir import RunDir
from components.storage.files import PARTIAL
from components.storage.ownership import MARK, write_mark
from pipeline.run_lock import LOCK_FILE, hold_run_dir

ROOT = Path(__file__).parents[2]
HOLD = """
import sys, time
from pathlib import Path
from components.run_dir import RunDir
from pipeline.run_lock import hold_run_dir
with hold_run_dir(RunDir(Path(sys.argv[1]))):
    print("held", flush=True)
    time.sleep(1000)
"""


@pytest.fixture
def run(tmp_path):
    return RunDir(tmp_path / "run")


def hold(run):
    """Enter and leave."""
    with hold_run_dir(run):
        pass


@pytest.fixture
def other(run):
    """A process that holds the run directory."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(run.root)], stdout=subprocess.PIPE, cwd=ROOT)
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_second_run_is_refused_and_told_of_the_first(run, other):
    message = refusal(hold, run)
    assert re.match(rf"Process {other.pid} on \S+, since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d\S*, is running in", message)
    assert str(run.root) in message


def test_the_lock_of_a_killed_process_is_taken_over_and_nothing_stays(run, other):
    other.kill()
    other.wait()
    with hold_run_dir(run):
        run.record.touch()
        assert str(os.getpid()) in (run.root / LOCK_FILE).read_text()
        assert "since" in refusal(hold, run)
    hold(run)
    assert sorted(os.listdir(run.root)) == [MARK, "run.json"]


def test_what_a_killed_run_left_half_written_is_removed_and_nothing_else(run):
    (run.root / f"model{PARTIAL}" / "inner").mkdir(parents=True)
    write_mark(run.root, ())
    for name in (
        "model.partial",
        f"mine{PARTIAL}",
        f"run.json.123{PARTIAL}",
        f"stages/train.json.7{PARTIAL}",
        "stages/mine.partial",
        f"export/12{PARTIAL}/variables",
        "export/11/model",
    ):
        (run.root / name).parent.mkdir(parents=True, exist_ok=True)
        (run.root / name).touch()
    hold(run)
    assert {str(file.relative_to(run.root)) for file in run.root.rglob("*") if file.is_file()} == {
        MARK,
        "model.partial",
        f"mine{PARTIAL}",
        "stages/mine.partial",
        "export/11/model",
    }


def test_a_folder_with_files_of_others_is_refused_and_left_as_it_is(run):
    run.root.mkdir()
    (run.root / "notes.txt").touch()
    assert "contains 'notes.txt' and is no run directory" in refusal(hold, run)
    assert os.listdir(run.root) == ["notes.txt"]


def test_an_empty_folder_is_taken_and_stays(run):
    run.root.mkdir()
    hold(run)
    assert os.listdir(run.root) == []


def test_files_that_a_person_put_beside_those_of_a_run_stay(run):
    with hold_run_dir(run):
        run.record.touch()
    for name in ("lock", "probe", "notes.partial"):
        (run.root / name).write_text("mine")
    hold(run)
    assert [(run.root / name).read_text() for name in ("lock", "probe", "notes.partial")] == ["mine"] * 3


def test_a_directory_of_which_nothing_came_is_not_left(run):
    hold(run)
    assert not run.root.exists()


def test_a_directory_that_is_removed_meanwhile_is_named(run):
    def lose():
        with hold_run_dir(run):
            shutil.rmtree(run.root)
            raise FileNotFoundError

    assert "was removed while the run wrote to it" in refusal(lose)


def test_errors_pass_and_release_the_lock(run):
    for error in (ValueError, UserError, KeyboardInterrupt):
        with pytest.raises(error), hold_run_dir(run):
            raise error
    hold(run)


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    assert "Cannot write to" in refusal(hold, RunDir(tmp_path / "file" / "run"))
