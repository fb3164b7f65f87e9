"""Every read and write of a small run made to fail, one at a time: once, then each time; the run must notice.

    python benchmarks/storage_faults.py [--stages ingest extract] [--places 10] [--seed 0]

A place is a kind of operation (open, read, write, rename, remove, list, look at) on one file in one stage. Places are
those of a run that nothing disturbs; images of the data set count as one file. A stage with a fault must end with an
error, after which the same command gives the right result, or with the right result: that of the undisturbed run. It
prints a line a fault and a table, and writes benchmarks/storage_faults.json. Needs a C compiler: functions of libc are
those that fail.
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
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
import yaml
from faults import is_same, list_left_over, read_results
from PIL import Image

from pipeline.cli import main as run_command
from pipeline.cli import silence_libraries

SOURCE = Path(__file__).with_suffix(".c")
LOADED = (
    "components.validate.validate",
    "components.evaluate.evaluate",
    "components.train.train",
    "pipeline.pipeline",
    "pipeline.commands",
)
OFF, RECORD, ONCE, ALWAYS = range(4)
MODES = {"once": ONCE, "always": ALWAYS}
EIO = 5
SECONDS = 300
STAGES = ("ingest", "validate", "extract", "audit", "train", "export", "evaluate", "report")


class Fault(NamedTuple):
    """What fails: the operation, and the path below the place of the runs, with '#' for what is random in it."""

    operation: str
    path: str


class Located(Protocol):
    """A place with the path of a file or object."""

    @property
    def path(self) -> str: ...


NO_FAULT = Fault("", "")
F = TypeVar("F", bound=Located)


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

    @property
    def run(self) -> Path:
        """The run directory that a config names."""
        return self.place / "run"

    def call(self, stage: str, mode: int, fault: Fault = NO_FAULT, record: str = "") -> tuple[int | None, str]:
        """Run one stage; return the status and the output."""
        log = str(self.place.parent / "log")
        words = ["run", str(self.place / "c.yaml"), "--only", stage]
        process = self.context.Process(target=run_forked, args=(words, f"{self.place}/", mode, fault, log, record))
        process.start()
        process.join(SECONDS)
        if process.is_alive():
            process.kill()
            process.join()
        return process.exitcode, Path(log).read_text(errors="replace")

    def lay_out(self, snapshot: Path) -> None:
        """Put the run directory in the state that a snapshot holds."""
        shutil.rmtree(self.run, ignore_errors=True)
        if snapshot.exists():
            shutil.copytree(snapshot, self.run)


def read_faults(record: Path) -> list[Fault]:
    """Return the places of an undisturbed stage, of the images of the data set those of the first."""
    lines = [line.partition("\t") for line in record.read_text(errors="replace").splitlines()]
    return list_faults([Fault(operation, path) for operation, _, path in lines])


def list_faults(places: Sequence[F]) -> list[F]:
    """Return each place once, of the images of the data set those of the first."""
    seen = dict.fromkeys(places)
    images = sorted({place.path for place in seen if re.match("images/class0/.", place.path)})[:1]
    return [place for place in seen if not re.match("images/class./.", place.path) or place.path in images]


def judge(bench: Bench, stage: str, mode: int, fault: Fault, before: Path, after: dict[str, object]) -> Judgement:
    """Run a stage with a fault from a snapshot, and hold what it leaves against the undisturbed result."""
    bench.lay_out(before)
    status, said = bench.call(stage, mode, fault)
    if status in (0, 3):
        found = compare(bench.run, after)
        return Judgement("wrong", found) if found else Judgement("not met" if "hits 0" in said else "right", "")
    if status == -9:
        return Judgement("wrong", f"did not end within {SECONDS} s")
    last = next((line for line in reversed(said.splitlines()) if line.strip() and "hits" not in line), "")
    again, more = bench.call(stage, OFF)
    found = more[-300:] if again not in (0, 3) else compare(bench.run, after)
    if found:
        return Judgement("wrong", f"after an error, run again: {found}")
    return Judgement("error" if status == 2 and "Traceback" not in said else "traceback", last[:200])


class Judgement(NamedTuple):
    """How a stage with a fault came out: right, error, traceback (an error without a sentence), not met, wrong."""

    outcome: str
    detail: str


def compare(run: Path, undisturbed: dict[str, object]) -> str:
    """Return the first difference of a run from the undisturbed one, '' where there is none."""
    found = read_results(run)
    if found.keys() != undisturbed.keys():
        return f"files differ: {sorted(found.keys() ^ undisturbed.keys())[:5]}"
    differs = [name for name, value in undisturbed.items() if not is_same(found[name], value)]
    return f"{differs[0]} differs" if differs else list_left_over(run)


def prepare(place: Path) -> None:
    """Write images, a network and a config."""
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


def main() -> None:
    """Print and write all figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stages", nargs="+", default=STAGES, choices=STAGES)
    parser.add_argument("--places", type=int, help="how many places of a stage, drawn at random (default all)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    silence_libraries(verbose=False)
    rows: list[dict[str, object]] = []
    counts: Counter[tuple[str, str]] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder, "place")
        prepare(place)
        os.environ["LD_PRELOAD"] = str(compile_shim(Path(folder)))
        os.environ["TOPGRAFT_CACHE"] = str(Path(folder, "cache"))
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([*LOADED])
        bench = Bench(place, context)
        before, found = Path(folder, "nothing"), 0
        for stage in STAGES:
            record, after = Path(folder, f"{stage}.record"), Path(folder, stage)
            bench.lay_out(before)
            status, said = bench.call(stage, RECORD, record=str(record))
            os.environ.pop("LD_PRELOAD", None)  # the forkserver has it
            if status not in (0, 3):
                raise SystemExit(said)
            shutil.copytree(bench.run, after)
            faults, undisturbed = read_faults(record), read_results(after)
            found += len(faults)
            if options.places is not None:
                faults = random.Random(options.seed).sample(faults, min(options.places, len(faults)))
            for fault in faults if stage in options.stages else ():
                for name, mode in MODES.items():
                    started = time.perf_counter()
                    judged = judge(bench, stage, mode, fault, before, undisturbed)
                    counts[name, judged.outcome] += 1
                    rows.append({"stage": stage, "fault": name, **fault._asdict(), **judged._asdict()})
                    line = f"{judged.outcome:9} {name:6} {stage:8} {fault.operation:13} {fault.path}"
                    print(f"{line}  {time.perf_counter() - started:.1f} s  {judged.detail}", flush=True)
                    Path(__file__).with_suffix(".json").write_text(json.dumps(rows, indent=2) + "\n")
            before = after
    print(f"{found} places, {len(rows) // len(MODES)} of them tried")
    for (name, outcome), count in sorted(counts.items()):
        print(f"{name:6} {outcome:9} {count}")
    raise SystemExit(any(outcome == "wrong" for _, outcome in counts))


if __name__ == "__main__":
    main()
