"""Every read and write of a small run made to fail, one at a time: once, then each time; the run must notice.

    python benchmarks/storage_faults.py [--places 10] [--seed 0]

A place is a kind of operation (open, read, write, rename, remove, list, look at) on one file. Places are taken from a
run that nothing disturbs; images of the data set count as one file. A run with a fault must end with an error, after
which the same command gives the right result, or with the right result: that of the undisturbed run. Prints a table and
writes benchmarks/storage_faults.json. Needs a C compiler: libc's own functions are those that fail.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import multiprocessing
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml
from faults import is_same, list_left_over, read_results
from PIL import Image

from pipeline.cli import main as run_command
from pipeline.cli import silence_libraries

SOURCE = Path(__file__).with_suffix(".c")
LOADED = ("components.validate", "components.evaluate", "components.train", "pipeline.pipeline", "pipeline.commands")
OFF, RECORD, ONCE, ALWAYS = range(4)
MODES = {"once": ONCE, "always": ALWAYS}
EIO = 5
SECONDS = 300


class Fault(NamedTuple):
    """What fails: the operation, and the path below the place of the runs, with '#' for what is random in it."""

    operation: str
    path: str


NO_FAULT = Fault("", "")


def paint(folder: Path) -> None:
    """Write a few images of three classes."""
    random_numbers = np.random.default_rng(0)
    for number, colour in enumerate([(200, 60, 50), (50, 90, 200), (60, 180, 70)]):
        (folder / f"class{number}").mkdir(parents=True)
        for image in range(10):
            pixels = np.clip(np.array(colour) + random_numbers.normal(0, 40, (24, 32, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"class{number}" / f"{image:02d}.png")


def write_network(path: Path) -> None:
    """Write a frozen graph that averages colours."""
    import tensorflow as tf

    with tf.Graph().as_default() as graph:
        pixels = tf.compat.v1.placeholder(tf.float32, [None, 32, 32, 3], "input")
        tf.identity(tf.reshape(tf.nn.avg_pool2d(pixels, 8, 8, "VALID"), [-1, 48]), "features")
    path.write_bytes(graph.as_graph_def().SerializeToString())


def compile_shim(folder: Path) -> Path:
    """Compile what is preloaded."""
    library = folder / "storage_faults.so"
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl"], check=True)
    return library


def run_forked(words: Sequence[str], place: str, mode: int, fault: Fault, log: str, record: str) -> None:
    """Run a command with a fault; in a process of its own."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    recorded = os.open(record, os.O_WRONLY | os.O_CREAT | os.O_APPEND) if record else -1
    shim = ctypes.CDLL(None)
    shim.storage_faults_set(mode, place.encode(), fault.operation.encode(), fault.path.encode(), EIO, recorded)
    try:
        status = run_command([*words])
    except BaseException:
        import traceback

        traceback.print_exc()
        status = 1
    hits = shim.storage_faults_hits()
    shim.storage_faults_set(OFF, b"", b"", b"", 0, -1)
    sys.stdout.flush()
    sys.stderr.flush()
    os.write(1, f"\nhits {hits}\n".encode())
    os._exit(status)


class Bench(NamedTuple):
    """The folder of all runs, and the context whose processes are forked with all libraries loaded."""

    place: Path
    context: multiprocessing.context.BaseContext

    def run(self, mode: int, fault: Fault = NO_FAULT, record: str = "") -> tuple[int, str]:
        """Run the config; return the status, None for a run that did not end, and its output."""
        log = str(self.place.parent / "log")
        words = ["run", str(self.place / "c.yaml")]
        process = self.context.Process(
            target=run_forked, args=(words, f"{self.place}/", mode, fault, log, record), daemon=False
        )
        process.start()
        process.join(SECONDS)
        if process.is_alive():
            process.kill()
            process.join()
        return process.exitcode, Path(log).read_text(errors="replace")


def list_faults(record: Path) -> list[Fault]:
    """Return the places of an undisturbed run, of the images of the data set those of the first."""
    seen: dict[Fault, None] = {}
    for line in record.read_text(errors="replace").splitlines():
        operation, _, path = line.partition("\t")
        seen.setdefault(Fault(operation, path), None)
    images = sorted({fault.path for fault in seen if fault.path.startswith("images/class0/")})[:1]
    return [fault for fault in seen if not re.match("images/class./.", fault.path) or fault.path in images]


def judge(bench: Bench, mode: int, fault: Fault, undisturbed: dict[str, object]) -> tuple[str, str]:
    """Return how a run with a fault came out: right, error or wrong, and a detail."""
    run = bench.place / "run"
    shutil.rmtree(run, ignore_errors=True)
    status, said = bench.run(mode, fault)
    if status in (0, 3):
        found = compare(run, undisturbed)
        return ("wrong", found) if found else ("right" if "hits 0" not in said else "not met", "")
    clear = status == 2 and "Traceback" not in said
    last = next((line for line in reversed(said.splitlines()) if line.strip() and "hits" not in line), "")
    if status == -9:
        return "wrong", f"did not end within {SECONDS} s"
    again, more = bench.run(OFF)
    found = more[-300:] if again not in (0, 3) else compare(run, undisturbed)
    if found:
        return "wrong", f"after an error, run again: {found}"
    return ("error" if clear else "traceback"), last[:200]


def compare(run: Path, undisturbed: dict[str, object]) -> str:
    """Return the first difference of a run from the undisturbed one, '' where there is none."""
    found = read_results(run)
    if found.keys() != undisturbed.keys():
        return f"files differ: {sorted(found.keys() ^ undisturbed.keys())[:5]}"
    differs = [name for name, value in undisturbed.items() if not is_same(found[name], value)]
    return f"{differs[0]} differs" if differs else list_left_over(run)


def main() -> None:
    """Print and write all figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--places", type=int, help="how many places, drawn at random (default all)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    silence_libraries(verbose=False)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder, "place")
        paint(place / "images")
        write_network(place / "toy.pb")
        config = {
            "name": "t",
            "output_dir": str(place / "run"),
            "data": {"path": str(place / "images")},
            "backbone": {"frozen_graph": str(place / "toy.pb"), "input": "input", "bottleneck": "features"},
            "train": {"epochs": 3, "batch_size": 16, "learning_rate": 0.05},
            "evaluate": {"thresholds": {"accuracy": 0.1}},
        }
        (place / "c.yaml").write_text(yaml.safe_dump(config))
        os.environ["LD_PRELOAD"] = str(compile_shim(Path(folder)))
        os.environ["TOPGRAFT_CACHE"] = str(Path(folder, "cache"))
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([*LOADED])
        bench = Bench(place, context)
        record = Path(folder, "record")
        status, said = bench.run(RECORD, record=str(record))
        del os.environ["LD_PRELOAD"]
        if status != 0:
            raise SystemExit(said)
        undisturbed = read_results(place / "run")
        faults = list_faults(record)
        found = len(faults)
        if options.places:
            faults = random.Random(options.seed).sample(faults, min(options.places, found))
        rows = []
        counts: Counter[tuple[str, str]] = Counter()
        for fault in faults:
            for name, mode in MODES.items():
                started = time.perf_counter()
                outcome, detail = judge(bench, mode, fault, undisturbed)
                counts[name, outcome] += 1
                rows.append({"fault": name, **fault._asdict(), "outcome": outcome, "detail": detail})
                seconds = time.perf_counter() - started
                print(f"{outcome:9} {name:6} {fault.operation:13} {fault.path}  {seconds:.0f} s  {detail}", flush=True)
                Path(__file__).with_suffix(".json").write_text(json.dumps(rows, indent=2) + "\n")
    print(f"{found} places, {len(faults)} of them tried")
    for (name, outcome), count in sorted(counts.items()):
        print(f"{name:6} {outcome:9} {count}")
    raise SystemExit(any(outcome == "wrong" for _, outcome in counts))


if __name__ == "__main__":
    main()
