"""Thousands of damaged and hostile inputs to all that takes files or requests of strangers: what comes of them.

    python benchmarks/fuzzing.py [images configs manifests weights serve graphs archives] [--inputs 10000] [--seed 0]
        [--processes 2] [--json fuzzing.json]

Every input is made of a healthy one by its number and the seed, so that a finding can be had again. Inputs run in
processes of their own, which are watched. Findings are: a process that dies, an input that takes longer than
HANG_SECONDS, an exception other than the refusal that is meant, an answer of the server with status 500 or a path of
the machine, and a file outside the process's folder that is opened or changed, by Python's audit events and a listing
of what lies around that folder before and after. Ends with status 1 where there is any.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

TARGETS = ("images", "configs", "manifests", "weights", "serve", "graphs", "archives")
SCRIPT = Path(__file__).with_name("fuzz_targets.py")
HANG_SECONDS = 60
START_SECONDS = 300  # importing TensorFlow on a busy machine
PART = 2500  # inputs of one process


@dataclass
class Outcome:
    """What came of the inputs of one target."""

    inputs: int = 0
    accepted: int = 0
    refused: int = 0
    crashes: int = 0
    hangs: int = 0
    unexpected: int = 0
    stray: int = 0
    slowest: tuple[float, int] = (0.0, 0)  # seconds, input
    peak_mb: int = 0
    findings: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Keep a finding and print it."""
        self.findings.append(text)
        print(text, file=sys.stderr, flush=True)

    def add(self, other: Outcome) -> None:
        """Count another's inputs too."""
        for name in ("inputs", "accepted", "refused", "crashes", "hangs", "unexpected", "stray"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.slowest = max(self.slowest, other.slowest)
        self.peak_mb = max(self.peak_mb, other.peak_mb)
        self.findings += other.findings


def fuzz_part(target: str, first: int, end: int, seed: int) -> Outcome:
    """Give inputs first to end to processes; one that dies or hangs is followed by another from the next input on."""
    outcome = Outcome()
    with tempfile.TemporaryDirectory(prefix="fuzzing-") as around:
        outside, inside = Path(around, "outside"), Path(around, "inside")
        for folder in (outside, inside):
            folder.mkdir()
        (outside / "decoy").write_text("not to be touched")
        before = list_files(outside)
        while first < end:
            first = watch_process(target, first, end, seed, outside, inside, outcome)
        if list_files(outside) != before or len(os.listdir(around)) != 2:
            outcome.stray += 1
            outcome.note(f"{target}: files around the folder changed: {list_files(outside) ^ before}")
    return outcome


def watch_process(target: str, first: int, end: int, seed: int, outside: Path, inside: Path, outcome: Outcome) -> int:
    """Run a process over inputs and count what it tells; return the input to go on with."""
    here = Path(__file__).parents[1]
    environment = {
        **os.environ,
        **{"HOME": str(inside), "TMPDIR": str(inside), "TOPGRAFT_CACHE": str(inside), "TF_CPP_MIN_LOG_LEVEL": "3"},
        **{"PYTHONPATH": str(here), "PYTHONDONTWRITEBYTECODE": "1", "CUDA_VISIBLE_DEVICES": ""},
    }
    command = [sys.executable, "-W", "ignore", str(SCRIPT), target, str(first), str(end), str(seed), str(inside)]
    errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
    process = subprocess.Popen(
        command,
        cwd=outside,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=errors,
        stdin=subprocess.DEVNULL,
        text=True,
    )
    lines: queue.Queue[str] = queue.Queue()
    threading.Thread(target=lambda: [*map(lines.put, process.stdout or ()), lines.put("")], daemon=True).start()
    patience = START_SECONDS
    while True:
        try:
            line = lines.get(timeout=patience)
        except queue.Empty:
            process.kill()
            outcome.inputs += 1
            outcome.hangs += 1
            outcome.note(f"{target} {first}: no end after {patience} seconds")
            return first + 1
        if not line:
            break
        if not line.startswith("{"):
            continue
        patience = HANG_SECONDS
        row: dict[str, Any] = json.loads(line)
        outcome.peak_mb = max(outcome.peak_mb, row.get("peak_mb", 0))
        if "input" in row:
            first = row["input"] + 1
            count_row(target, row, outcome)
    if process.wait() != 0 or first < end:
        errors.seek(0)
        last = errors.read()[-500:]
        outcome.inputs += 1
        outcome.crashes += 1
        outcome.note(f"{target} {first}: the process ended with status {process.returncode}: {last}")
        return first + 1
    return end


def count_row(target: str, row: dict[str, Any], outcome: Outcome) -> None:
    """Count what a process tells of one input."""
    outcome.inputs += 1
    outcome.accepted += row["accepted"]
    outcome.refused += not row["accepted"] and not row["finding"]
    outcome.unexpected += bool(row["finding"])
    outcome.stray += bool(row["stray"])
    outcome.slowest = max(outcome.slowest, (row["seconds"], row["input"]))
    for text in filter(None, [row["finding"], *row["stray"]]):
        outcome.note(f"{target} {row['input']}: {text}")


def list_files(folder: Path) -> set[tuple[str, int, int]]:
    """Return path, size and time of change of all below a folder."""
    stats = [(str(path), path.lstat()) for path in folder.rglob("*")]
    return {(path, status.st_size, status.st_mtime_ns) for path, status in stats}


def fuzz(targets: Sequence[str], inputs: int, seed: int, processes: int) -> dict[str, Outcome]:
    """Return what came of so many inputs of each target."""
    parts = [(name, first, min(first + PART, inputs)) for name in targets for first in range(0, inputs, PART)]
    with ThreadPoolExecutor(processes) as pool:
        outcomes = list(pool.map(lambda part: fuzz_part(*part, seed), parts))
    totals = {name: Outcome() for name in targets}
    for (name, _, _), outcome in zip(parts, outcomes, strict=True):
        totals[name].add(outcome)
    return totals


def main() -> int:
    """Print findings as they come, then a line a target; return 1 where there was one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="*", metavar="target", help=f"of {', '.join(TARGETS)} (default all)")
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if unknown := set(options.targets) - set(TARGETS):
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    started = time.perf_counter()
    outcomes = fuzz(options.targets or TARGETS, options.inputs, options.seed, options.processes)
    columns = ("inputs", "accepted", "refused", "crashes", "hangs", "unexpected", "stray")
    print(f"{'':10}" + "".join(f"{column:>11}" for column in columns) + f"{'slowest s':>11}{'peak MB':>9}")
    for name, outcome in outcomes.items():
        numbers = "".join(f"{getattr(outcome, column):11,}" for column in columns)
        print(f"{name:10}{numbers}{outcome.slowest[0]:11.2f}{outcome.peak_mb:9,}")
    print(f"{time.perf_counter() - started:.0f} seconds, seed {options.seed}")
    if options.json:
        options.json.write_text(json.dumps({name: asdict(outcome) for name, outcome in outcomes.items()}, indent=2))
    return int(any(outcome.findings for outcome in outcomes.values()))


if __name__ == "__main__":
    sys.exit(main())
