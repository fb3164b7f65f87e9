"""Painted images, a toy backbone, and what tests do with them."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from components.data.listing import list_images
from components.errors import UserError
from components.outcomes import Work
from components.run_dir import RunDir

COLOURS = {"cyan": (0, 255, 255), "magenta": (255, 0, 255), "yellow": (255, 255, 0)}
SHARED_DATA = Path(os.environ.get("TOPGRAFT_TEST_DATA", Path(__file__).parents[1] / "../shared/data")).resolve()


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


def check_bottlenecks_agree(run: RunDir, images: Path) -> None:
    """Assert that extraction, the exported SavedModel and the plain backbone give the same bottlenecks."""
    import tensorflow as tf

    from components.backbones.prepare import BackboneSession, read_backbone
    from components.export.versions import list_versions
    from components.extract.engine_choice import compare_directions
    from components.shards.bottlenecks import read_bottlenecks

    (folder,) = run.backbones.iterdir()
    backbone = read_backbone(folder)
    engine = json.loads(run.record.read_text())["backbone"]["engine"]
    files = [str(path) for path in sorted(run.bottlenecks(backbone.id, engine).glob("test-*.tfrecord"))]
    table = read_bottlenecks(files, backbone.dim)
    keys, extracted = table.keys[:8], table.vectors[:8]
    encoded = [(images / key).read_bytes() for key in keys]
    plain = BackboneSession(folder).compute_bottlenecks(encoded)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.compat.v1.saved_model.load(session, ["serve"], str(list_versions(run.exports)[-1]))
        served = session.run("backbone/bottleneck:0", {"image_bytes:0": encoded})
    tolerance = 1e-5 * max(1.0, float(np.abs(plain).max()))
    np.testing.assert_allclose(served, plain, atol=tolerance)
    if engine == "tensorflow":
        np.testing.assert_allclose(extracted, plain, atol=tolerance)
    assert keys and compare_directions(extracted, plain).min() > 0.99


def write_config(path: Path, **values) -> Path:
    """Write a config file."""
    path.write_text(yaml.safe_dump(values))
    return path


SHARES = {"train": 0.5, "val": 0.25, "test": 0.25}


def ingest(place, run: RunDir, options, shards: int = 2, shares=SHARES, seed: int = 0, train_per_class=None, **rules):
    """Ingest a folder, manifest or Listing as a run would."""
    from components.data.image_list import Listing
    from components.ingest.ingest import ingest_images
    from components.ingest.settings import IngestRules, Split

    listing = place if isinstance(place, Listing) else list_images(str(place))
    rules = IngestRules(Split(**shares, train_per_class=train_per_class), **rules)
    return ingest_images(listing, rules, shards, seed, run, options, quiet_progress())


def quiet_progress():
    """Return a progress display that shows nothing."""
    from rich.console import Console

    from components.terminal.progress import Progress

    return Progress(Console(quiet=True))


def refusal(function, *arguments) -> str:
    """Return the message of the UserError, which must be one line and one sentence."""
    with pytest.raises(UserError) as caught:
        function(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    assert ". " not in message
    return message


def fill(root, *keys, content=b"x"):
    """Write a file for each key, and return the root as a string."""
    for key in keys:
        (root / key).parent.mkdir(parents=True, exist_ok=True)
        (root / key).write_bytes(content)
    return str(root)


def keys(listing):
    return [file.key for file in listing.files]


def read_outcome(run, stage, kind):
    """Return the outcome of a stage as its kind."""
    values = json.loads((run.stages / f"{stage}.json").read_text())["outcome"]
    return kind(**{**values, "work": Work(**values["work"])})
