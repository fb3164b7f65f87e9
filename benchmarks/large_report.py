"""How large the report of many images and classes is, and how fast a browser opens it.

python benchmarks/large_report.py [--images 10000] [--classes 257]

Writes painted JPEGs, most of them test images, runs the whole pipeline over them with a toy network, and opens
report/index.html in headless Chromium five times: until its load event, and until the first answer to a click.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import tensorflow as tf
import yaml
from PIL import Image
from playwright.sync_api import sync_playwright

from pipeline.cli import main

TEST_SHARE, OPENINGS = 0.8, 5


def paint(folder: Path, images: int, classes: int) -> None:
    """Write JPEGs of 160 x 120 pixels whose blurred colours tell the class, some of them hardly."""
    random = np.random.default_rng(0)
    colours = random.integers(0, 256, (classes, 3, 4, 3))
    for number in range(images):
        label = number % classes
        pixels = np.clip(colours[label] + random.normal(0, 50, (3, 4, 3)), 0, 255).astype(np.uint8)
        path = folder / f"class {label:03d}" / f"image_{number:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).resize((160, 120), Image.Resampling.BICUBIC).save(path, quality=90)


def write_network(path: Path) -> None:
    """Write a frozen graph whose features are the mean colours of a grid."""
    with tf.Graph().as_default() as graph:
        pixels = tf.compat.v1.placeholder(tf.float32, [None, 32, 32, 3], "input")
        tf.reshape(tf.nn.avg_pool2d(pixels, 8, 8, "VALID"), [-1, 48], "features")
    path.write_bytes(graph.as_graph_def().SerializeToString())


def open_page(page_file: Path) -> tuple[list[float], list[float]]:
    """Return the seconds of each opening until the load event and until a click has listed its images."""
    loads, clicks = [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        for _ in range(OPENINGS):
            page = browser.new_page()
            started = time.perf_counter()
            page.goto(page_file.as_uri())
            loads.append(time.perf_counter() - started)
            page.locator("[data-cell]").first.dispatch_event("click")
            page.locator("#images figure").first.wait_for()
            clicks.append(time.perf_counter() - started)
            page.close()
        browser.close()
    return loads, clicks


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=10_000, help="test images")
    parser.add_argument("--classes", type=int, default=257)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        paint(root / "images", round(options.images / TEST_SHARE), options.classes)
        write_network(root / "toy.pb")
        config = {
            "name": "large",
            "output_dir": str(root / "run"),
            "data": {"path": str(root / "images"), "split": {"train": 0.1, "val": 0.1, "test": TEST_SHARE}},
            "backbone": {
                "frozen_graph": str(root / "toy.pb"),
                "input": "input",
                "bottleneck": "features",
                "scale": [-1, 1],
            },
            "validation": {"on_anomaly": "warn"},
        }
        (root / "large.yaml").write_text(yaml.safe_dump(config))
        main(["run", str(root / "large.yaml")])
        page_file = root / "run" / "report" / "index.html"
        loads, clicks = open_page(page_file)
        result = {
            "test_images": json.loads((root / "run" / "run.json").read_text())["counts"]["test"],
            "classes": options.classes,
            "megabytes": round(page_file.stat().st_size / 1e6, 1),
            "seconds_to_load": round(statistics.median(loads), 2),
            "seconds_to_first_click": round(statistics.median(clicks), 2),
        }
        print(json.dumps(result, indent=2))
