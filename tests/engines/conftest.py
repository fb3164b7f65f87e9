"""Tests on real clusters: `make engines` fetches them, `make test-engines` runs these tests, `make test` does not.

Each test makes one loss in one job, and compares the run with one in process.
"""

import os

import pytest
from clusters import HOME, Flink, Spark, wait_for
from toys import paint_images, write_config
from trials import Trial, finish, list_servers, topgraft

from components.run_dir import RunDir

# A cluster takes 6 GB and half a minute to start.
collect_ignore_glob = [] if os.environ.get("TOPGRAFT_ENGINES") else ["test_*.py"]


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


def run_cluster(kind, folder):
    """Yield a cluster, which is stopped also where its start fails half-way."""
    assert kind.jar, f"no job server in '{HOME}': run make engines first"
    cluster = kind.__new__(kind)
    try:
        cluster.__init__(folder)
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="module")
def flink(tmp_path_factory):
    """Three TaskManagers; a test that kills one starts it again."""
    yield from run_cluster(Flink, tmp_path_factory.mktemp("flink"))


@pytest.fixture(scope="module")
def spark(tmp_path_factory):
    """A master and two workers of one core."""
    yield from run_cluster(Spark, tmp_path_factory.mktemp("spark"))


@pytest.fixture
def attempt(settings, expected, tmp_path):
    """Return a function that prepares a stage on a cluster."""
    return lambda cluster, stage, **beam: Trial(cluster, settings, expected, tmp_path, stage, **beam)


@pytest.fixture
def nothing_left():
    """After a test, assert that its commands left no job server."""
    yield
    wait_for(lambda: not list_servers(), 30)
