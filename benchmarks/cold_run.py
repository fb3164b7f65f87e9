"""A cold run of the whole pipeline against the bare forward passes of its backbone, in one process' time each.

python benchmarks/cold_run.py configs/caltech101.yaml data.path=data/caltech101
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from components.backbones.prepare import BackboneSession, read_backbone
from components.features import BOTTLENECK, PIXELS

BATCH_SIZE = 32


def measure_forward(backbone_folder: Path, images: int) -> float:
    """Return seconds that the network alone takes for a number of images, pixels already in memory."""
    session = BackboneSession(backbone_folder)
    size = read_backbone(backbone_folder).size
    pixels = np.random.default_rng(0).uniform(-1, 1, (BATCH_SIZE, size, size, 3)).astype(np.float32)
    session.run(BOTTLENECK, PIXELS, pixels)
    start = time.perf_counter()
    for _ in range(images // BATCH_SIZE):
        session.run(BOTTLENECK, PIXELS, pixels)
    return time.perf_counter() - start


def main() -> None:
    """Print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", nargs="?", default="configs/digits.yaml")
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [str(Path(sys.executable).with_name("topgraft")), "run", options.config, *options.overrides]
        start = time.perf_counter()
        subprocess.run([*command, f"output_dir={run}"], check=True)
        cold = time.perf_counter() - start
        start = time.perf_counter()
        subprocess.run([*command, f"output_dir={run}"], check=True, stdout=subprocess.DEVNULL)
        idle = time.perf_counter() - start
        record = json.loads((run / "run.json").read_text())
        forward = measure_forward(run / "backbone" / record["backbone"]["id"], record["counts"]["written"])
    figures = {
        "images": record["counts"]["written"],
        "cold_seconds": round(cold, 1),
        "forward_seconds": round(forward, 1),
        "cold_over_forward": round(cold / forward, 2),
        "idle_seconds": round(idle, 2),
        "accuracy": record["metrics"]["accuracy"],
    }
    for name, value in figures.items():
        print(f"{name:20}{value}")
    Path("benchmarks/cold_run.json").write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
