"""Throughput: what each stage took at some sizes of data, and the fixed part and the rate that follow from it."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from components.run_dir import STAGES, TUNING_STAGES, RunDir
from components.storage.files import write_json
from components.storage.places import measure

# What a process takes before its first stage and after its last: imports, the list of images.
START = "start"


class Timing(NamedTuple):
    """What a stage took: seconds of the clock, of busy cores (0 where not taken), and the bytes that it left."""

    seconds: float
    core_seconds: float
    written: int


class Trial(NamedTuple):
    """A run that computed everything anew: its images and classes, the width of a bottleneck, its stages in order."""

    images: int
    classes: int
    dim: int
    stages: dict[str, Timing]


class TrialRuns(NamedTuple):
    """Trial runs, and what the audit takes for a pair of images, by the clock and by cores."""

    trials: list[Trial]
    pair_seconds: tuple[float, float]


class Law(NamedTuple):
    """A cost as a fixed part and one for each unit of work."""

    fixed: float
    each: float

    def cost(self, units: float) -> float:
        """Return the cost of so many units."""
        return self.fixed + self.each * units


def fit_law(units: Sequence[float], costs: Sequence[float]) -> Law:
    """Return the law, with no negative part, that is nearest to costs in relative terms; of equal units the median.

    Where all units are equal the parts cannot be told apart: all of it is then held for the rate, so that it is too
    much for larger data rather than too little.
    """
    # Loaded on use: it takes longer than all else here.
    from scipy.optimize import nnls  # type: ignore[import-untyped]

    by_units: dict[float, list[float]] = {}
    for unit, cost in zip(units, costs, strict=True):
        by_units.setdefault(unit, []).append(cost)
    found = {unit: statistics.median(some) for unit, some in by_units.items()}
    least = 1e-9  # seconds or bytes, so that a cost of nothing has a relative size
    if len(found) == 1:
        ((unit, cost),) = found.items()
        return Law(0.0, cost / unit)
    weights = 1 / np.maximum(np.array([*found.values()]), least)
    columns = np.stack([weights, weights * np.array([*found])], 1)
    scale = columns.max(0)  # units are ones or a hundred million
    parts, _ = nnls(columns / scale, np.array([*found.values()]) * weights)
    fixed, each = (parts / scale).tolist()
    return Law(fixed, each)


def read_trial(run: RunDir) -> Trial | None:
    """Return what the stages of a finished run took, None where one is missing or took something over from before."""
    records = {}
    for name in STAGES:
        try:
            records[name] = json.loads((run.stages / f"{name}.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            if name not in TUNING_STAGES:
                return None
    if any(record["outcome"]["work"]["reused"] for record in records.values()):
        return None
    stages = {
        name: Timing(
            record["seconds"], record.get("core_seconds", 0.0), sum(size or 0 for size, _ in record["files"].values())
        )
        for name, record in records.items()
    }
    examples, extracted = records["ingest"]["outcome"], records["extract"]["outcome"]
    return Trial(examples["written"], len(examples["labels"]), extracted["dim"], stages)


def measure_shards(run: RunDir) -> float:
    """Return by how much the bytes of a run's example shards differ, relative to their mean; 0 for a single shard."""
    sizes: dict[str, int] = {}
    for file in run.examples.glob("*.tfrecord"):
        shard = file.name.partition("-")[2]  # behind the split
        sizes[shard] = sizes.get(shard, 0) + measure(file).size
    return statistics.stdev(sizes.values()) / statistics.mean(sizes.values()) if len(sizes) > 1 else 0.0


def read_trial_runs(file: Path, key: str) -> TrialRuns | None:
    """Return what was kept under a key, None where there is nothing or it was measured under another."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["key"] != key:
            return None
        trials = [
            Trial(**{**trial, "stages": {name: Timing(*timing) for name, timing in trial["stages"].items()}})
            for trial in content["trials"]
        ]
        clock, cores = content["pair_seconds"]
        return TrialRuns(trials, (clock, cores))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def write_trial_runs(file: Path, key: str, measured: TrialRuns) -> None:
    """Keep what was measured under a key, which says for what config and machine it holds."""
    trials = [{**trial._asdict(), "stages": trial.stages} for trial in measured.trials]
    write_json(file, {"key": key, "pair_seconds": measured.pair_seconds, "trials": trials})
