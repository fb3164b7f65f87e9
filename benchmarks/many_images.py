"""The memory and the seconds of the command itself over 10^5, 10^6 and 10^7 images, up to the submitted ingest job.

    python benchmarks/many_images.py [--images 100000 1000000 10000000] [--classes 1000]

Names and sizes are synthetic, as a listing of a bucket gives them; the run directory is a temporary folder. Each number
of images has a process of its own. The job is built and not run. It prints a row per number and writes
benchmarks/many_images.json: seconds of the listing, of its fingerprint and of ingest up to the job, peak memory of the
process, and bytes of the job's graph.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = "gs://bucket/images"
MEGABYTE = 1e6


class Submitted(Exception):
    """The job is complete."""


def name_images(images: int, classes: int) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield names below the root with bytes and a time of change."""
    for number in range(images):
        yield f"class_{number % classes:04d}/IMG_{number:08d}.jpg", (40_000 + number % 9973, 1_700_000_000_000_000_000)


def measure(images: int, classes: int) -> dict[str, float]:
    """Return the figures of one number of images."""
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions
    from rich.console import Console

    from components.data import folders, listing
    from components.ingest.ingest import ingest_images
    from components.ingest.settings import IngestRules, Split
    from components.run_dir import RunDir
    from components.terminal.progress import Progress

    figures: dict[str, float] = {"images": images, "MB at the start": read_peak()}
    listing.as_path = lambda path: SimpleNamespace(is_dir=lambda: True, exists=lambda: True)  # type: ignore
    folders.as_path = str  # type: ignore
    folders.walk_objects = lambda root: name_images(images, classes)  # type: ignore

    def submit(pipeline: Any, *_: object) -> None:
        figures["graph bytes"] = len(pipeline.to_runner_api().SerializeToString())
        raise Submitted

    beam.Pipeline.run = submit
    started = time.perf_counter()
    listed = listing.list_images(ROOT)
    figures["list s"] = time.perf_counter() - started
    started = time.perf_counter()
    listed.fingerprint()
    figures["fingerprint s"] = time.perf_counter() - started
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        rules = IngestRules(Split(train=0.8, val=0.1, test=0.1))
        try:
            ingest_images(
                listed, rules, None, 0, RunDir(Path(folder)), PipelineOptions([]), Progress(Console(quiet=True))
            )
        except Submitted:
            figures["ingest s"] = time.perf_counter() - started
    figures["peak MB"] = read_peak()
    return figures


def read_peak() -> float:
    """Return the peak memory of this process so far, in megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MEGABYTE


def main() -> None:
    """Print and write all figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, nargs="+", default=[10**5, 10**6, 10**7])
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--only", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        print(json.dumps(measure(options.only, options.classes)))
        return
    rows = []
    for images in options.images:
        command = [sys.executable, "-W", "ignore", __file__, "--classes", str(options.classes), "--only", str(images)]
        rows.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
        print("  ".join(f"{name} {value:,.0f}" for name, value in rows[-1].items()), flush=True)
    Path(__file__).with_suffix(".json").write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
