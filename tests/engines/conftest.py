"""Tests on real clusters: `make engines` fetches them, `make test-engines` runs these tests, `make test` does not.

Each test makes one loss in one job, and compares the run with one in process.
"""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from clusters import HOME, PATIENCE, Flink, Spark, wait_for
from toys import paint_images, write_config

from components.run_dir import RunDir
from components.storage.files import PARTIAL

# A cluster takes 6 GB and half a minute to start.
collect_ignore_glob = [] if os.environ.get("TOPGRAFT_ENGINES") else ["test_*.py"]


def topgraft(*words, **settings):
    """Start a command of this installation, in a group of its own."""
    command = [str(Path(sys.executable).parent / "topgraft"), *map(str, words)]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, **{**streams, "start_new_session": True, **settings})


def finish(process, status=0, patience=PATIENCE):
    """Wait for a command, assert its exit status, and return its last line on stderr."""
    try:
        output, errors = process.communicate(timeout=patience)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == status, f"{output}\n{errors}"
    lines = [line for line in errors.splitlines() if line.startswith("topgraft:")]
    return lines[-1] if lines else ""


@pytest.fixture(scope="session")
def settings(tmp_path_factory):
    """The config of all runs: images whose extraction takes long enough to be disturbed."""
    folder = tmp_path_factory.mktemp("engines")
    return {
        "name": "toy",
        "data": {"path": str(paint_images(folder / "images", per_class=150))},
        "train": {"epochs": 4},
        "extract": {"engine": "tensorflow"},
        "evaluate": {"thresholds": {"accuracy": 0.3}},
        "beam": {"shards": 12},
    }


@pytest.fixture(scope="session")
def expected(settings, tmp_path_factory):
    """A finished run in process; tests must not change it."""
    folder = tmp_path_factory.mktemp("expected")
    config = write_config(folder / "toy.yaml", **settings, output_dir=str(folder / "run"))
    finish(topgraft("run", config, "--quiet"))
    return RunDir(folder / "run")


class Trial:
    """A copy of the expected run without the results of some stages, to be computed on a cluster."""

    def __init__(self, cluster, settings, expected, folder, stage, **beam):
        self.expected, self.stage, self.run = expected, stage, RunDir(folder / "run")
        shutil.copytree(expected.root, self.run.root)
        for path in self.folders():
            shutil.rmtree(path)
        (self.run.stages / f"{stage}.json").unlink()
        values = {**settings, "beam": {**settings["beam"], **cluster.beam, **beam}, "output_dir": str(self.run.root)}
        self.config = write_config(folder / "toy.yaml", **values)

    def folders(self):
        """Return the folders that the stage writes."""
        of_stage = {
            "ingest": [self.run.examples],
            "validate": [self.run.validation],
            "extract": [path for path in self.run.root.glob("bottlenecks/*") if path.is_dir()],
            "evaluate": [self.run.evaluation],
        }
        return of_stage[self.stage]

    def start(self):
        return topgraft("run", self.config, "--only", self.stage)

    def at_work(self):
        """Return the partial files of the stage."""
        names = {"ingest": "examples", "validate": "", "extract": "bottlenecks", "evaluate": ""}[self.stage]
        return [*(self.run.root / names).rglob(f"*{PARTIAL}")]

    def check(self):
        """Assert that the stage has the files of the run in process, and that nothing else is left."""
        compare = {"ingest": "examples", "validate": "", "extract": "bottlenecks", "evaluate": ""}[self.stage]
        if compare:
            assert contents(self.run.root / compare) == contents(self.expected.root / compare)
        else:
            assert {path.name for path in self.folders()[0].iterdir()}
        assert not [*self.run.root.rglob(f"*{PARTIAL}*")]


def contents(folder):
    """Return the bytes of the shards and tables below a folder by name, without timings."""
    found = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.endswith("trials.json")
    }
    assert found
    return found


@pytest.fixture(scope="module")
def flink(tmp_path_factory):
    """Three TaskManagers; a test that kills one starts it again."""
    assert Flink.jar, f"no job server in '{HOME}': run make engines first"
    cluster = Flink.__new__(Flink)
    try:
        cluster.__init__(tmp_path_factory.mktemp("flink"))
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="module")
def spark(tmp_path_factory):
    """A master and two workers of one core."""
    assert Spark.jar, f"no job server in '{HOME}': run make engines first"
    cluster = Spark.__new__(Spark)
    try:
        cluster.__init__(tmp_path_factory.mktemp("spark"))
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def attempt(settings, expected, tmp_path):
    """Return a function that prepares a stage on a cluster."""
    return lambda cluster, stage, **beam: Trial(cluster, settings, expected, tmp_path, stage, **beam)


@pytest.fixture
def nothing_left():
    """After a test, assert that its commands left no job server."""
    yield
    wait_for(lambda: not list_servers(), 30)


def list_servers():
    """Return the numbers of the processes that run a job server of the tests."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if str(HOME).encode() in (line := (folder / "cmdline").read_bytes()) and b"--job-host" in line:
                found.append(int(folder.name))
        except OSError:
            continue
    return found
