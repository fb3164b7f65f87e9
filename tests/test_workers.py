"""Workers elsewhere: processes of an environment that holds the source distribution and the lock, not this checkout."""

import contextlib
import csv
import json
import os
import re
import signal
import socket
import subprocess
import sys
import sysconfig
import tarfile
import time
from pathlib import Path

import pytest
from toys import write_config

from components.export.versions import list_versions
from components.run_dir import RunDir
from components.storage.files import PARTIAL
from pipeline.cli import main

ROOT = Path(__file__).parents[1]
# For a busy machine.
PATIENCE = 400


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    """The source distribution, as Beam builds it for its workers from a setup_file."""
    folder = tmp_path_factory.mktemp("sdist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--sdist", "--outdir", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (archive,) = folder.iterdir()
    return archive


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory, sdist):
    """An environment with the source distribution installed and the lock's packages in sight, but no checkout.

    A path in a .pth file is added to sys.path, and the .pth files that lie there, such as an editable install's, are
    not read.
    """
    folder = tmp_path_factory.mktemp("elsewhere") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "lock.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    install = [*("-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", "--no-build-isolation")]
    subprocess.run([sys.executable, *install, str(sdist)], check=True, capture_output=True)
    return folder


def call(elsewhere, *command, **settings):
    """Start a process of the environment, in a group and a folder of its own."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment["PATH"] = f"{elsewhere / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return subprocess.Popen(
        [str(elsewhere / "bin" / command[0]), *map(str, command[1:])],
        cwd=elsewhere,
        env=environment,
        start_new_session=True,
        text=True,
        **{"stderr": subprocess.DEVNULL, **settings},
    )


@pytest.fixture
def start(elsewhere):
    """Return a function that starts a process of the environment; all of them and theirs are killed at the end."""
    started = []

    def run(*command, **settings):
        started.append(call(elsewhere, *command, **settings))
        return started[-1]

    yield run
    for process in started:
        kill(process)


def kill(process):
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def start_pool(start):
    """Start a worker pool; return its process and its address."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    pool = start("python", "-m", "apache_beam.runners.worker.worker_pool_main", f"--service_port={port}")
    wait_for(lambda: is_open(port), pool)
    return pool, f"localhost:{port}"


def is_open(port):
    with socket.socket() as probe:
        return probe.connect_ex(("localhost", port)) == 0


def wait_for(condition, process):
    """Wait until a condition holds; fail if a process that should bring it about ends before, or after PATIENCE."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.005)


def contents(root, pattern):
    found = {path.relative_to(root).as_posix(): path.read_bytes() for path in root.glob(pattern) if path.is_file()}
    assert found
    return found


def read_predictions(run):
    """Return what stands in a run's predictions, rows one behind the other: the words, and the probabilities."""
    with run.predictions.open(newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    numbers = [re.fullmatch(r"\d\.\d{6}", cell) for cell in cells]
    return (
        [cell for cell, number in zip(cells, numbers, strict=True) if not number],
        [float(number[0]) for number in numbers if number],
    )


def test_the_source_distribution_holds_the_packages_and_what_they_read(sdist):
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames() if archive.getmember(name).isfile()}
    packed = {name for name in names if not name.startswith("topgraft.egg-info/")}
    about = {"LICENSE", "MANIFEST.in", "PKG-INFO", "README.md", "setup.cfg", "setup.py"}
    tracked = subprocess.run(["git", "ls-files", "components", "pipeline"], cwd=ROOT, capture_output=True, text=True)
    assert packed - about == set(tracked.stdout.split())
    assert about <= packed


def test_the_environment_takes_topgraft_from_the_source_distribution(elsewhere):
    command = "import components, pipeline; print(components.__file__, pipeline.__file__)"
    output, _ = call(elsewhere, "python", "-c", command, stdout=subprocess.PIPE).communicate()
    assert all(Path(path).is_relative_to(elsewhere) for path in output.split()), output
    refused = call(elsewhere, "python", "-c", "import toys", stderr=subprocess.PIPE)
    assert "No module named 'toys'" in refused.communicate()[1]


def test_a_run_over_two_pools_of_which_one_is_killed_ends_as_in_process(start, toy_run, toy_config, tmp_path):
    (lost, *_), *_ = pools = [start_pool(start) for _ in range(2)]
    service = start("python", ROOT / "tests" / "two_workers.py", *(pool[1] for pool in pools), stdout=subprocess.PIPE)
    endpoint, environment = service.stdout.readline().split()
    beam = {
        **toy_config["beam"],
        "runner": "PortableRunner",
        "job_endpoint": endpoint,
        "environment_type": "EXTERNAL",
        "environment_config": environment,
    }
    run = RunDir(tmp_path / "run")
    config = write_config(tmp_path / "toy.yaml", **{**toy_config, "beam": beam, "output_dir": str(run.root)})

    def at_work():
        partials = run.root.glob(f"bottlenecks/*/*{PARTIAL}")
        numbers = [re.search(r"\.(\d+)\.[0-9a-f]{32}\.", path.name) for path in partials]
        return [number for number in numbers if number and os.getpgid(int(number[1])) == lost.pid]

    with open(tmp_path / "errors", "w") as errors:
        first = start("topgraft", "run", config, stderr=errors)
    wait_for(at_work, first)
    kill(lost)
    # Beam's own job service tries nothing again (apache/beam#18640); the other worker may end before its shard does.
    assert first.wait(PATIENCE) == 2
    assert "A worker ended before its work did: check its memory" in (tmp_path / "errors").read_text()

    again = start("topgraft", "run", config, "--json", stdout=subprocess.PIPE)
    record = json.loads(again.communicate(timeout=PATIENCE)[0])
    assert again.returncode == 0
    assert record["stages"]["ingest"]["skipped"] and record["stages"]["validate"]["skipped"]
    assert record["stages"]["extract"]["reused"] < record["stages"]["extract"]["items"]
    # TFDV and TFMA sum and list in the order in which workers come to the images.
    for pattern in ("examples/*", "bottlenecks/**/*", "audit/*"):
        assert contents(run.root, pattern) == contents(toy_run.root, pattern)
    (words, numbers), (expected_words, expected_numbers) = read_predictions(run), read_predictions(toy_run)
    assert words == expected_words
    # The last digit depends on what is beside an image in TFMA's batch.
    assert numbers == pytest.approx(expected_numbers, abs=1e-5)
    schemas = [(root.validation / "schema.pbtxt").read_text().splitlines() for root in (run, toy_run)]
    assert sorted(schemas[0]) == sorted(schemas[1])
    assert record["metrics"] == pytest.approx(json.loads(toy_run.record.read_text())["metrics"])


def test_predictions_of_several_processes_are_the_very_file_of_the_plain_path(toy_run, toy_config, tmp_path):
    command = ["predict", str(list_versions(toy_run.exports)[-1]), toy_config["data"]["path"], "--output"]
    assert main([*command, str(tmp_path / "plain.csv")]) == 0
    flags = ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]
    assert main([*command, str(tmp_path / "job.csv"), "--beam", "shards=2", "--", *flags]) == 0
    assert (tmp_path / "job.csv").read_bytes() == (tmp_path / "plain.csv").read_bytes()


def test_predictions_from_a_pool_are_the_very_file_of_the_plain_path(start, toy_run, toy_config, tmp_path):
    _, address = start_pool(start)
    export, images = str(list_versions(toy_run.exports)[-1]), toy_config["data"]["path"]
    assert main(["predict", export, images, "--output", str(tmp_path / "plain.csv")]) == 0
    flags = ["--runner=PortableRunner", "--job_endpoint=embed", "--environment_type=EXTERNAL"]
    job = start(
        *("topgraft", "predict", export, images, "--output", tmp_path / "job.csv", "--beam", "shards=2"),
        *("--", *flags, f"--environment_config={address}"),
    )
    assert job.wait(PATIENCE) == 0
    assert (tmp_path / "job.csv").read_bytes() == (tmp_path / "plain.csv").read_bytes()
