"""Ingest beside a bare loop that reads, hashes and decodes the same files, and its memory as the data grows.

    python benchmarks/ingest.py data/caltech101 [--rounds 5] [--grow 10]

Prints a table and writes benchmarks/ingest.json: seconds of both, in turn, with a pool of as many threads as ingest has
and with one; then the peak memory of a process that ingests the images once and of one that has them `grow` times.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from components.data.image_list import Listing
from components.data.listing import list_images
from components.run_dir import RunDir
from components.shards.spans import choose_shards

SHARES = {"train": 0.6, "val": 0.2, "test": 0.2}


def run_bare_loop(paths: Sequence[str], threads: int) -> float:
    """Return the seconds that reading, hashing and decoding take."""
    import tensorflow as tf

    def read(path: str) -> None:
        encoded = Path(path).read_bytes()
        hashlib.sha256(encoded).hexdigest()
        tf.io.decode_image(encoded, channels=3, expand_animations=False)

    started = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(paths), 1000):
            list(pool.map(read, paths[start : start + 1000]))
    return time.perf_counter() - started


def run_ingest(listing: Listing) -> float:
    """Return the seconds of an ingest into an empty run directory."""
    from apache_beam.options.pipeline_options import PipelineOptions
    from rich.console import Console

    from components.ingest.ingest import ingest_images
    from components.ingest.settings import IngestRules, Split
    from components.terminal.progress import Progress

    options, progress = PipelineOptions(["--runner", "FnApiRunner"]), Progress(Console(quiet=True))
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        rules, shards = IngestRules(Split(**SHARES)), choose_shards(len(listing.files))
        ingest_images(listing, rules, shards, 0, RunDir(Path(folder)), options, progress)
        return time.perf_counter() - started


def measure_memory(images: Path) -> float:
    """Return the peak memory in MiB of a process that lists and ingests images."""
    command = [sys.executable, __file__, str(images), "--memory"]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def grow_folder(images: Path, folder: Path, times: int) -> None:
    """Write each image several times, each with other bytes behind its end."""
    for file in images.rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            for number in range(times):
                target = folder / file.relative_to(images).parent / f"{number}-{file.name}"
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content + bytes([number]))


def main() -> None:
    """Print and write all figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--grow", type=int, default=10)
    parser.add_argument("--memory", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    listing = list_images(str(options.images))
    if options.memory:
        run_ingest(listing)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    from components.ingest.write_shards import DECODE_THREADS

    paths = [file.path for file in listing.files]
    seconds: dict[str, list[float]] = {}
    for number in range(options.rounds + 1):
        timed = {
            "bare loop": run_bare_loop(paths, DECODE_THREADS),
            "bare loop, 1 thread": run_bare_loop(paths, 1),
            "ingest": run_ingest(listing),
        }
        for name, value in timed.items():
            if number:  # the first round warms up
                seconds.setdefault(name, []).append(value)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, values in seconds.items():
        ratio = statistics.median(ours / value for ours, value in zip(seconds["ingest"], values, strict=True))
        print(f"{name:22} {medians[name]:7.2f} s  ({min(values):.2f} to {max(values):.2f})   ingest / this {ratio:.2f}")
    memory = {}
    if options.grow > 1:
        with tempfile.TemporaryDirectory() as folder:
            for times in (1, options.grow):
                grow_folder(options.images, Path(folder, str(times)), times)
                memory[times * len(paths)] = measure_memory(Path(folder, str(times)))
                print(f"{times * len(paths):7,} images: {memory[times * len(paths)]:,.0f} MiB at the peak")
    result = {"images": len(paths), "seconds": seconds, "medians": medians, "peak_mib": memory}
    Path(__file__).with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
