"""Estimates: the cost of each stage for any number of images, as a fixed part and a rate that trials show."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from components.plan.trials import Cost, Trial
from components.run_dir import STAGES

# What a process takes before its first stage and after its last: imports, the list of images.
START = "start"
ON_WORKERS = ("ingest", "validate", "extract", "reextract", "evaluate")
# Images beyond which a stage costs no more: the report shows 2,500 pictures, which are those of some 5,000 images.
MOST_IMAGES = {START: 0, "export": 0, "report": 5000}
# Measured: bytes of Python with its libraries, of an image in ingest; copies that the audit has of its bottlenecks.
BASE_BYTES, ROW_BYTES, AUDIT_COPIES = 1.5 * 2**30, 1600, 5


class Law(NamedTuple):
    """The cost of a stage: a fixed part, and a rate for each image up to the most that count."""

    fixed: Cost
    rate: Cost
    most: float

    def predict(self, images: int) -> Cost:
        """Return the cost for so many images."""
        counted = min(images, self.most)
        return Cost(*(fixed + rate * counted for fixed, rate in zip(self.fixed, self.rate, strict=True)))


class Plan(NamedTuple):
    """What a run will take: seconds of the clock, bytes of memory of the command, cost where there is a price."""

    images: int
    measured: list[int]  # images of the runs that it follows from
    cores: int
    worker_cores: int  # 0 without workers
    stages: dict[str, Cost]
    on_workers: list[str]
    seconds: float
    driver_bytes: float
    cost: float | None
    notes: list[str]


def fit_line(sizes: Sequence[float], costs: Sequence[float]) -> tuple[float, float]:
    """Return a fixed part and a rate, neither negative, from the median costs at the smallest and the largest size.

    At one size the two cannot be told apart: all of it counts as the rate.
    """
    pairs = [*zip(sizes, costs, strict=True)]
    least, most = min(sizes), max(sizes)
    first, last = (statistics.median(cost for size, cost in pairs if size == end) for end in (least, most))
    if least == most:
        return (0.0, last / most) if most else (last, 0.0)
    rate = max(0.0, last - first) / (most - least)
    fixed = first - rate * least
    return (fixed, rate) if fixed >= 0 else (0.0, last / most)


def fit_laws(trials: Sequence[Trial], most_audited: int, worker_cores: int) -> dict[str, Law]:
    """Return the law of each stage that some trial has; worker_cores share the work of an image on workers."""
    laws = {}
    for stage in (START, *STAGES):
        having = [trial for trial in trials if stage in trial.stages]
        if having:
            most = {**MOST_IMAGES, "audit": most_audited}.get(stage, math.inf)
            sizes = [min(trial.images, most) for trial in having]
            lines = [fit_line(sizes, costs) for costs in zip(*(trial.stages[stage] for trial in having), strict=True)]
            fixed, rate = (Cost(*parts) for parts in zip(*lines, strict=True))
            if worker_cores and stage in ON_WORKERS:
                rate = rate._replace(seconds=rate.core_seconds / worker_cores)
            laws[stage] = Law(fixed, rate, most)
    return laws


def make_plan(
    trials: Sequence[Trial], images: int, most_audited: int, cores: int, worker_cores: int, price: float | None
) -> Plan:
    """Return the plan for so many images; the price is for an hour of a core, of workers and of this machine."""
    laws = fit_laws(trials, most_audited, worker_cores)
    stages = {stage: law.predict(images) for stage, law in laws.items()}
    on_workers = [stage for stage in stages if worker_cores and stage in ON_WORKERS]
    seconds = sum(stage.seconds for stage in stages.values())
    core_seconds = cores * seconds + worker_cores * sum(stages[stage].seconds for stage in on_workers)
    cost = None if price is None else price * core_seconds / 3600
    driver_bytes = BASE_BYTES + max(ROW_BYTES * images, AUDIT_COPIES * 4 * trials[-1].dim * min(images, most_audited))
    measured = sorted({trial.images for trial in trials})
    flat = [stage for stage, law in laws.items() if law.rate.seconds == 0 and math.isinf(law.most)]
    notes = list_notes(images, measured, most_audited, flat)
    return Plan(images, measured, cores, worker_cores, stages, on_workers, seconds, driver_bytes, cost, notes)


def list_notes(images: int, measured: Sequence[int], most_audited: int, flat: Sequence[str]) -> list[str]:
    """Return what a plan cannot know, a sentence each; flat are the stages that showed no rate."""
    largest, notes = measured[-1], []
    if len(measured) == 1:
        notes.append(f"Only runs of {largest:,} images were measured: too much for more images, too little for fewer.")
    if images > 1000 * largest:
        notes.append(f"This is {images / largest:,.0f} times what was measured, which multiplies errors as much.")
    if images > largest:
        square = f"the square of their number up to {most_audited:,}"
        notes.append(f"The audit compares all pairs of images: its time grows with {square}, faster than in the plan.")
    if images > largest and flat:
        notes.append(
            f"The larger run took no longer than the smaller for {', '.join(flat)}, so the plan says too little: make "
            f"trial runs again on a machine without other work (--measure)."
        )
    return notes
