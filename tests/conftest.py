"""Painted images, a toy backbone, and a finished run over them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import settings
from toys import paint_images, quiet_progress, write_config, write_toy_graph

from components.run_dir import RunDir
from components.storage.places import as_path
from pipeline.cli import main, silence_libraries

silence_libraries(verbose=False)
# An example may take long on a busy machine.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


# Fixtures by which a test runs stages, on Beam, TFDV and TFMA, or needs a browser or another process.
HEAVY = {"options", "toy_config", "toy_run", "storage", "browser", "lite", "kernel"}


def pytest_collection_modifyitems(items):
    """Mark the tests that `make quick` leaves out, and put files of whole runs first: a long one should not be last."""
    heavy = {item.path for item in items if HEAVY.intersection(item.fixturenames)}
    for item in items:
        if HEAVY.intersection(item.fixturenames):
            item.add_marker("heavy")
    items.sort(key=lambda item: (item.path.parent != Path(__file__).parent, item.path not in heavy))


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory):
    os.environ["TOPGRAFT_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def toy_backbone(tmp_path_factory) -> dict:
    """The toy network as a config names it."""
    path = write_toy_graph(tmp_path_factory.mktemp("toy_graph") / "toy.pb")
    return {"frozen_graph": str(path), "input": "input", "bottleneck": "features", "scale": [-1, 1]}


@pytest.fixture(scope="session")
def lite(tmp_path_factory) -> Path:
    """The folder of the embedded backbone, prepared."""
    from components.backbones.prepare import prepare_backbone
    from components.backbones.spec import parse_backbone

    folder = tmp_path_factory.mktemp("backbones")
    return folder / prepare_backbone(parse_backbone("efficientnet_lite0"), folder, quiet_progress()).id


@pytest.fixture(scope="session")
def toy_config(tmp_path_factory, toy_backbone) -> dict:
    """A config of the toy run, every call of the fixture's user may copy and change it."""
    folder = tmp_path_factory.mktemp("toy")
    images = paint_images(folder / "images", per_class=60)
    (images / "cyan" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    return {
        "name": "toy",
        "output_dir": str(folder / "run"),
        "data": {"path": str(images)},
        "backbone": toy_backbone,
        "extract": {"engine": "tensorflow"},
        "train": {"epochs": 8, "batch_size": 16, "learning_rate": 0.05},
        "evaluate": {"thresholds": {"accuracy": 0.7, "loss": 1.0}, "max_accuracy_drop": 0.5},
        "beam": {"shards": 2},
    }


@pytest.fixture(scope="session")
def toy_run(toy_config, tmp_path_factory) -> RunDir:
    """A finished, blessed run over painted images; tests must not change it."""
    config = write_config(tmp_path_factory.mktemp("config") / "toy.yaml", **toy_config)
    assert main(["run", str(config)]) == 0
    return RunDir(Path(toy_config["output_dir"]))


@pytest.fixture(scope="session")
def storage():
    """An emulator of Cloud Storage, gcsfs's for the session; the environment that makes all libraries use it."""
    from storage_emulator import connect_anonymously, environment

    connect_anonymously()
    command = [sys.executable, str(Path(__file__).with_name("storage_emulator.py"))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        values = environment(int(process.stdout.readline()))
        os.environ["STORAGE_EMULATOR_HOST"] = values["STORAGE_EMULATOR_HOST"]
        yield values
        del os.environ["STORAGE_EMULATOR_HOST"]
        process.terminate()


@pytest.fixture
def remote(storage, tmp_path) -> Path:
    """A folder in Cloud Storage with nothing in it."""
    return as_path(f"gs://bucket/{tmp_path.parent.name}/{tmp_path.name}")


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium; not for longer than a module, as asyncio is Playwright's while it runs."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not chromium:
        pytest.skip("needs Chromium in PATH")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def options():
    """Beam's options for tests."""
    from apache_beam.options.pipeline_options import PipelineOptions

    return PipelineOptions(["--runner", "FnApiRunner"])


@pytest.fixture
def progress():
    """A progress display that shows nothing."""
    return quiet_progress()
