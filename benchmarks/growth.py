"""How time and peak memory of every stage grow with the number of images, and what an append to them writes.

    python benchmarks/growth.py data/caltech101 [--sizes 1000 10000 100000] [--append 1000] [--backbone ...]

Prints tables and writes benchmarks/growth.json. Images are copies of those given, with other bytes behind their ends;
every stage is a process of its own, whose peak memory is what the system counted. The slope is that of the logarithms:
1 where ten times the images take ten times as long. Bytes an image are those by which the peak memory of the two
largest sizes differs. After each size, images are appended and ingest and extract run again: written are the bytes of
all files of examples and bottlenecks that this has made anew.
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


STAGES = ("ingest", "validate", "extract", "audit", "train", "export", "evaluate", "report")


def copy_images(images: Path, folder: Path, start: int, stop: int) -> None:
    """Write the images from one number to another, copies where there are not as many."""
    files = sorted(file for file in images.rglob("*") if file.is_file())
    numbered = ((number, file) for number in itertools.count() for file in files)
    for number, file in itertools.islice(numbered, start, stop):
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


def list_files(run: Path) -> dict[Path, tuple[int, int, int]]:
    """Return (inode, time of change, bytes) of each file of examples and bottlenecks."""
    files = [file for part in ("examples", "bottlenecks") for file in (run / part).rglob("*") if file.is_file()]
    return {file: (file.stat().st_ino, file.stat().st_mtime_ns, file.stat().st_size) for file in files}


def measure_append(images: Path, place: Path, config: Path, count: int, more: int) -> dict[str, float]:
    """Append images and run ingest and extract again; return seconds, bytes there before and bytes written."""
    before = list_files(place / "run")
    copy_images(images, place / "images", count, count + more)
    ingest = run_stage(config, "ingest")[0]
    run_stage(config, "validate")
    extract = run_stage(config, "extract")[0]
    after = list_files(place / "run")
    written = sum(state[2] for file, state in after.items() if before.get(file) != state)
    return {
        "ingest": ingest,
        "extract": extract,
        "before": sum(size for *_, size in before.values()),
        "written": written,
    }


def main() -> None:
    """Print and write all figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--append", type=int, default=1000)
    parser.add_argument("--backbone", default="efficientnet_lite0", help="as in a config")
    parser.add_argument("--engine", default="tensorflow")
    options = parser.parse_args()
    figures: dict[str, dict[int, tuple[float, float]]] = {stage: {} for stage in STAGES}
    appends: dict[int, dict[str, float]] = {}
    print("seconds, and peak memory in MiB")
    print(f"{'images':>8} " + " ".join(f"{stage:>13}" for stage in STAGES), flush=True)
    for count in options.sizes:
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            copy_images(options.images, place / "images", 0, count)
            config = place / "growth.yaml"
            values = {
                "name": "growth",
                "output_dir": str(place / "run"),
                "data": {"path": str(place / "images")},
                "backbone": yaml.safe_load(options.backbone),
                "extract": {"engine": options.engine},
                "validation": {"on_anomaly": "warn"},
            }
            config.write_text(yaml.safe_dump(values))
            for stage in STAGES:
                figures[stage][count] = run_stage(config, stage)
            appends[count] = measure_append(options.images, place, config, count, options.append)
        numbers = " ".join(f"{figures[stage][count][0]:7.1f} {figures[stage][count][1]:5.0f}" for stage in STAGES)
        print(f"{count:8} {numbers}", flush=True)
    for stage, of_sizes in figures.items():
        seconds, memory = zip(*of_sizes.values(), strict=True)
        slope = np.polyfit(np.log(options.sizes), np.log(seconds), 1)[0] if len(seconds) > 1 else float("nan")
        images = options.sizes[-1] - options.sizes[-2:][0]
        an_image = (memory[-1] - memory[-2:][0]) * 2**20 / images if images else float("nan")
        print(f"{stage:9} slope {slope:.2f}, {an_image:,.0f} bytes an image")
    print(f"appending {options.append:,} images writes")
    for count, append in appends.items():
        print(
            f"{append['written'] / 2**20:8.1f} MiB to the {append['before'] / 2**20:,.1f} MiB of {count:,} images, "
            f"in {append['ingest']:.1f} s of ingest and {append['extract']:.1f} s of extract"
        )
    content = {"stages": figures, "appends": appends}
    Path(__file__).with_suffix(".json").write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
