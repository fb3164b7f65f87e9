"""How time and peak memory of ingest and extract grow with the number of images.

    python benchmarks/growth.py data/caltech101 [--sizes 1000 10000 100000] [--backbone efficientnet_lite0]

Prints a table and writes benchmarks/growth.json. Images are copies of those given, with other bytes behind their ends;
every stage is a process of its own, whose peak memory is what the system counted. The slope is that of the logarithms:
1 where ten times the images take ten times as long.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import yaml

TOPGRAFT = str(Path(sys.executable).with_name("topgraft"))


def copy_images(images: Path, folder: Path, count: int) -> None:
    """Write a number of images, copies where there are not as many."""
    files = sorted(file for file in images.rglob("*") if file.is_file())
    numbered = ((number, file) for number in itertools.count() for file in files)
    for number, file in itertools.islice(numbered, count):
        target = folder / file.relative_to(images).parent / f"{number}-{file.name}"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes() + number.to_bytes(4, "big"))


def run_stage(config: Path, stage: str) -> tuple[float, float]:
    """Run one stage in a process; return its wall seconds and its peak memory in MiB."""
    started = time.perf_counter()
    with subprocess.Popen([TOPGRAFT, "run", str(config), "--only", stage], stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 3):
        raise SystemExit(f"stage '{stage}' ended with status {process.returncode}")
    return time.perf_counter() - started, usage.ru_maxrss / 1024


def main() -> None:
    """Print and write all figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--backbone", default="efficientnet_lite0", help="as in a config")
    parser.add_argument("--engine", default="tensorflow")
    options = parser.parse_args()
    figures: dict[str, dict[int, tuple[float, float]]] = {"ingest": {}, "extract": {}}
    print(f"{'images':>8} {'ingest s':>9} {'MiB':>6} {'extract s':>9} {'MiB':>6}", flush=True)
    for count in options.sizes:
        with tempfile.TemporaryDirectory() as place:
            copy_images(options.images, Path(place, "images"), count)
            config = Path(place, "growth.yaml")
            values = {
                "name": "growth",
                "output_dir": str(Path(place, "run")),
                "data": {"path": str(Path(place, "images"))},
                "backbone": yaml.safe_load(options.backbone),
                "extract": {"engine": options.engine},
                "validation": {"on_anomaly": "warn"},
            }
            config.write_text(yaml.safe_dump(values))
            for stage in ("ingest", "validate", "extract"):
                measured = run_stage(config, stage)
                if stage in figures:
                    figures[stage][count] = measured
        numbers = " ".join(f"{figures[stage][count][0]:9.1f} {figures[stage][count][1]:6.0f}" for stage in figures)
        print(f"{count:8} {numbers}", flush=True)
    for stage, of_sizes in figures.items():
        seconds, memory = zip(*of_sizes.values())
        slope = np.polyfit(np.log(options.sizes), np.log(seconds), 1)[0] if len(seconds) > 1 else float("nan")
        print(
            f"{stage}: slope {slope:.2f}; from {options.sizes[-2:][0]:,} to {options.sizes[-1]:,} images "
            f"{seconds[-1] / seconds[-2:][0]:.2f} times as long, peak memory {memory[-1] / memory[-2:][0] - 1:+.1%}"
        )
    Path(__file__).with_suffix(".json").write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
