"""Commands and stages that the tests on clusters disturb."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from clusters import HOME, PATIENCE, wait_for
from toys import write_config

from components.run_dir import RunDir
from components.storage.files import PARTIAL
from components.validate.validate import STATISTICS_FILE, load_statistics


def topgraft(*words, **settings):
    """Start a command of this installation, in a group of its own."""
    # A program that was started in the background ignores Ctrl-C, and so would what it starts.
    command = ["env", "--default-signal=INT", str(Path(sys.executable).parent / "topgraft"), *map(str, words)]
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


class Trial:
    """A copy of the expected run without the results of some stages, to be computed on a cluster."""

    def __init__(self, cluster, settings, expected, folder, stage, **beam):
        self.expected, self.stage, self.run = expected, stage, RunDir(folder / "run")
        shutil.copytree(expected.root, self.run.root)
        self.checked = cluster.folder / "workers.json"
        if self.checked.exists():  # saves the job that checks the workers, unless one was started meanwhile
            shutil.copy(self.checked, self.run.workers)
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

    def start_working(self):
        """Start the command, and return it as soon as a worker writes a file."""
        process = self.start()
        wait_for(lambda: self.at_work() or process.poll() is not None)
        if process.poll() is not None:
            finish(process)
            raise AssertionError("the stage ended before a worker was seen to write a file")
        return process

    def at_work(self):
        """Return the partial files of the stage."""
        names = {"ingest": "examples", "validate": "", "extract": "bottlenecks", "evaluate": ""}[self.stage]
        return [*(self.run.root / names).rglob(f"*{PARTIAL}")]

    def check(self):
        """Assert that the stage has the files of the run in process, and that nothing else is left."""
        found, expected = self.run, self.expected
        if self.stage in ("ingest", "extract"):
            folder = {"ingest": "examples", "extract": "bottlenecks"}[self.stage]
            assert contents(found.root / folder) == contents(expected.root / folder)
        elif self.stage == "validate":  # TFDV's order of features and its histograms depend on the order of batches
            schemas = [sorted((run.validation / "schema.pbtxt").read_text().splitlines()) for run in (found, expected)]
            assert schemas[0] == schemas[1]
            counts = [
                {split: statistics.datasets[0].num_examples for split, statistics in load_statistics(file).items()}
                for file in (run.validation / STATISTICS_FILE for run in (found, expected))
            ]
            assert counts[0] == counts[1]
        else:
            outcomes = [
                json.loads((run.stages / "evaluate.json").read_text())["outcome"]["metrics"]
                for run in (found, expected)
            ]
            assert outcomes[0] == pytest.approx(outcomes[1], abs=1e-6)
        assert not [*self.run.root.rglob(f"*{PARTIAL}*")]
        shutil.copy(self.run.workers, self.checked)


def contents(folder):
    """Return the bytes of the shards and tables below a folder by name, without timings."""
    found = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.endswith("trials.json")
    }
    assert found
    return found


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
