"""Runs over data that a run has seen before: nothing changed, the head changed, 1 % of images added; beside a cold run.

    python benchmarks/warm_runs.py configs/caltech101.yaml data/caltech101 [--rounds 3] [key=value ...]

Prints a table and writes benchmarks/warm_runs.json: wall seconds of whole processes, and the seconds of each stage that
ran. The images are linked into a folder of the benchmark's own, to which copies with other bytes are added.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

TOPGRAFT = str(Path(sys.executable).with_name("topgraft"))


class Timed(NamedTuple):
    """Wall seconds of a process, the seconds of each stage that ran in it, and how many bottlenecks it computed."""

    wall: float
    stages: dict[str, float]
    computed: int


def link_images(images: Path, folder: Path) -> list[Path]:
    """Link every image into a folder of the same layout; return the links."""
    links = []
    for file in sorted(file for file in images.rglob("*") if file.is_file()):
        link = folder / file.relative_to(images)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(file.resolve())
        links.append(link)
    return links


def add_copies(links: list[Path], number: int, share: float) -> None:
    """Add copies of a share of the images, each with a byte behind its end."""
    for link in links[:: round(1 / share)]:
        link.with_name(f"{number}-{link.name}").write_bytes(link.read_bytes() + bytes([number]))


def run_config(config: str, overrides: list[str], run: Path) -> Timed:
    """Run a config in a process of its own."""
    started = time.perf_counter()
    result = subprocess.run([TOPGRAFT, "run", config, f"output_dir={run}", *overrides], capture_output=True, text=True)
    wall = time.perf_counter() - started
    if result.returncode not in (0, 3):
        raise SystemExit(result.stderr)
    stages = json.loads((run / "run.json").read_text())["stages"]
    ran = {name: stage["seconds"] for name, stage in stages.items() if not stage["skipped"]}
    return Timed(wall, ran, stages["extract"]["computed"] if "extract" in ran else 0)


def time_help() -> Timed:
    """Time topgraft --help."""
    started = time.perf_counter()
    subprocess.run([TOPGRAFT, "--help"], check=True, capture_output=True)
    return Timed(time.perf_counter() - started, {}, 0)


def main() -> None:
    """Print and write all figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config")
    parser.add_argument("images", type=Path)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    timed: dict[str, list[Timed]] = {}
    with tempfile.TemporaryDirectory() as place:
        images, run = Path(place, "images"), Path(place, "run")
        links = link_images(options.images, images)
        overrides = [f"data.path={images}", *options.overrides]
        timed["cold"] = [run_config(options.config, overrides, run)]
        for number in range(options.rounds):
            timed.setdefault("--help", []).append(time_help())
            overrides.append(f"train.l2={0.002 + number / 1e6}")
            timed.setdefault("head changed", []).append(run_config(options.config, overrides, run))
            timed.setdefault("nothing changed", []).append(run_config(options.config, overrides, run))
            add_copies(links, number, 0.01)
            timed.setdefault("1 % added", []).append(run_config(options.config, overrides, run))
            overrides.append(f"seed={number + 1}")
            timed.setdefault("split changed", []).append(run_config(options.config, overrides, run))
    print(f"{len(links)} images, {options.rounds} rounds; median wall seconds (from, to), bottlenecks computed, stages")
    for name, runs in timed.items():
        walls = [one.wall for one in runs]
        stages = {stage: statistics.median(one.stages.get(stage, 0) for one in runs) for stage in runs[0].stages}
        line = " ".join(f"{stage} {seconds:.1f}" for stage, seconds in stages.items())
        spread = f"({min(walls):.2f} to {max(walls):.2f})"
        print(f"{name:16} {statistics.median(walls):7.2f} {spread:18} {runs[-1].computed:6}  {line}")
    result = {name: [one._asdict() for one in runs] for name, runs in timed.items()}
    Path(__file__).with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
