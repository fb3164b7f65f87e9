"""Painted images, a toy backbone, and a finished run over them."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import settings
from PIL import Image

from components.errors import UserError
from components.features import RunDir
from components.places import as_path
from pipeline.cli import main, silence_libraries

silence_libraries(verbose=False)
# An example may take long on a busy machine.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

COLOURS = {"cyan": (0, 255, 255), "magenta": (255, 0, 255), "yellow": (255, 255, 0)}
SHARED_DATA = Path(os.environ.get("TOPGRAFT_TEST_DATA", Path(__file__).parents[1] / "../shared/data")).resolve()


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory):
    os.environ["TOPGRAFT_CACHE"] = str(tmp_path_factory.mktemp("cache"))


def shared_data(name: str) -> Path:
    """Return a folder of real data; the test skips where it is absent."""
    folder = SHARED_DATA / name
    if not folder.exists():
        pytest.skip(f"needs the data set '{name}' below TOPGRAFT_TEST_DATA={SHARED_DATA}")
    return folder


def paint_images(root: Path, per_class: int = 30, seed: int = 0) -> Path:
    """Write cyan, magenta and yellow images, some hard to tell, of changing size and format, some in sub-folders."""
    random = np.random.default_rng(seed)
    for colour, rgb in COLOURS.items():
        for number in range(per_class):
            size = random.integers(20, 60, 2)
            tint = np.array(rgb) * random.uniform(0, 1) + random.normal(80, 25, 3)
            pixels = np.clip(tint + random.normal(0, 30, (*size, 3)), 0, 255).astype(np.uint8)
            suffix = ("jpg", "png", "gif", "bmp")[number % 4]
            folder = root / colour / ("camera" if number % 3 == 0 else "phone" if number % 3 == 1 else "")
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / f"{number:03d}.{suffix}")
    return root


def encode_noise(count: int, seed: int = 0) -> list[bytes]:
    """Return PNGs of random pixels, 50 wide and 40 high."""
    random = np.random.default_rng(seed)
    images = []
    for _ in range(count):
        buffer = io.BytesIO()
        Image.fromarray(random.integers(0, 256, (40, 50, 3), np.uint8)).save(buffer, "PNG")
        images.append(buffer.getvalue())
    return images


def add_toy_network(pixels):
    """Map pixels float32[N, 32, 32, 3] to the mean colours of a 4x4 grid, float32[N, 48]."""
    import tensorflow as tf

    return tf.reshape(tf.nn.avg_pool2d(pixels, 8, 8, "VALID"), [-1, 48])


def write_toy_graph(path: Path) -> Path:
    """Write the toy network as a frozen GraphDef."""
    import tensorflow as tf

    with tf.Graph().as_default() as graph:
        pixels = tf.compat.v1.placeholder(tf.float32, [None, 32, 32, 3], "input")
        tf.identity(add_toy_network(pixels), "features")
    path.write_bytes(graph.as_graph_def().SerializeToString())
    return path


@pytest.fixture(scope="session")
def toy_backbone(tmp_path_factory) -> dict:
    """The toy network as a config names it."""
    path = write_toy_graph(tmp_path_factory.mktemp("toy_graph") / "toy.pb")
    return {"frozen_graph": str(path), "input": "input", "bottleneck": "features", "scale": [-1, 1]}


@pytest.fixture(scope="session")
def lite(tmp_path_factory) -> Path:
    """The folder of the embedded backbone, prepared."""
    from components.backbone import prepare_backbone
    from components.catalog import parse_backbone

    folder = tmp_path_factory.mktemp("backbones")
    return folder / prepare_backbone(parse_backbone("efficientnet_lite0"), folder, quiet_progress()).id


def check_bottlenecks_agree(run: RunDir, images: Path) -> None:
    """Assert that extraction, the exported SavedModel and the plain backbone give the same bottlenecks."""
    import tensorflow as tf

    from components.backbone import BackboneSession, read_backbone
    from components.export import list_versions
    from components.shards import read_bottlenecks

    (folder,) = run.backbones.iterdir()
    backbone = read_backbone(folder)
    files = [str(path) for path in sorted(run.bottlenecks(backbone.id).glob("test-*.tfrecord"))]
    table = read_bottlenecks(files, backbone.dim)
    keys, extracted = table.keys[:8], table.vectors[:8]
    encoded = [(images / key).read_bytes() for key in keys]
    plain = BackboneSession(folder).compute_bottlenecks(encoded)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.compat.v1.saved_model.load(session, ["serve"], str(list_versions(run.exports)[-1]))
        served = session.run("backbone/bottleneck:0", {"image_bytes:0": encoded})
    tolerance = 1e-5 * max(1.0, float(np.abs(plain).max()))
    np.testing.assert_allclose(extracted, plain, atol=tolerance)
    np.testing.assert_allclose(served, plain, atol=tolerance)


def write_config(path: Path, **values) -> Path:
    """Write a config file."""
    path.write_text(yaml.safe_dump(values))
    return path


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
    pytest.importorskip("gcp_storage_emulator", reason="the emulator of Cloud Storage needs Python 3.10")
    from storage_emulator import environment

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


SHARES = {"train": 0.5, "val": 0.25, "test": 0.25}


def ingest(place, run: RunDir, options, shards: int = 2, shares=SHARES, seed: int = 0, train_per_class=None, **rules):
    """Ingest a folder, manifest or Listing as a run would."""
    from components.ingest import IngestRules, ingest_images
    from components.listing import Listing, list_images
    from components.split import SplitPlan

    listing = place if isinstance(place, Listing) else list_images(str(place))
    rules = IngestRules(SplitPlan(shares, train_per_class, seed), **rules)
    return ingest_images(listing, run, shards, rules, options, quiet_progress())


def quiet_progress():
    """Return a progress display that shows nothing."""
    from rich.console import Console

    from components.progress import Progress

    return Progress(Console(quiet=True))


@pytest.fixture
def progress():
    """A progress display that shows nothing."""
    return quiet_progress()


def refusal(function, *arguments) -> str:
    """Return the message of the UserError, which must be one line and one sentence."""
    with pytest.raises(UserError) as caught:
        function(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    assert ". " not in message
    return message
