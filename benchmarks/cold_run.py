"""A cold run of the whole pipeline against the bare forward passes of its backbone in the engine of the run.

python benchmarks/cold_run.py configs/caltech101.yaml data.path=data/caltech101
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from components.backbones.engines import BATCHES_IN_FLIGHT, load_engine
from components.backbones.prepare import BackboneSession, read_backbone
from components.features import BOTTLENECK, PIXELS

BATCH_SIZE = 32


def measure_forward(name: str, backbone_folder: Path, images: int) -> float:
    """Return seconds that the network alone takes for a number of images in an engine, pixels already in memory."""
    engine, size = load_engine(name, backbone_folder), read_backbone(backbone_folder).size
    pixels = np.random.default_rng(0).uniform(-1, 1, (BATCH_SIZE, size, size, 3)).astype(np.float32)

    def compute(_: int) -> None:
        if isinstance(engine, BackboneSession):
            engine.run(BOTTLENECK, PIXELS, pixels)
        else:
            engine.compute_from_pixels([pixels])

    # As many batches side by side as extraction has.
    with ThreadPoolExecutor(BATCHES_IN_FLIGHT) as pool:
        compute(0)
        start = time.perf_counter()
        list(pool.map(compute, range(images // BATCH_SIZE)))
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
        outcome = json.loads((run / "stages" / "extract.json").read_text())["outcome"]
        folder = run / "backbone" / record["backbone"]["id"]
        forward = measure_forward(outcome["engine"], folder, record["counts"]["written"])
    figures = {
        "images": record["counts"]["written"],
        "engine": outcome["engine"],
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
