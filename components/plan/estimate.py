"""Estimate the cost of each stage for any number of images, from a fixed cost and a cost per image."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from components.plan.trials import Cost, TrialRun
from components.run_dir import STAGES

# Cost outside the stages: imports, the list of images.
START = "start"
ON_WORKERS = ("ingest", "validate", "extract", "reextract", "evaluate")
# Images above which a stage has a constant cost. The report shows 2,500 pictures, those of about 5,000 images.
IMAGE_LIMITS = {START: 0, "export": 0, "report": 5000}
# Measured bytes of Python with its libraries and of an image in ingest; copies of the bottlenecks in the audit.
BASE_BYTES, ROW_BYTES, AUDIT_COPIES = 1.5 * 2**30, 400, 5


class LinearCost(NamedTuple):
    """The cost of a stage: a fixed cost, and a rate per image for up to max_images images."""

    fixed: Cost
    rate: Cost
    max_images: float

    def predict(self, images: int) -> Cost:
        """Return the cost for a number of images."""
        counted = min(images, self.max_images)
        return Cost(*(fixed + rate * counted for fixed, rate in zip(self.fixed, self.rate, strict=True)))


class RunPlan(NamedTuple):
    """Estimate of a run: elapsed seconds, peak memory of the command in bytes, cost if there is a price."""

    images: int
    measured: list[int]  # images of the measured runs, ascending
    cores: int
    worker_cores: int  # 0 without workers
    stages: dict[str, Cost]
    on_workers: list[str]
    seconds: float
    driver_bytes: float
    cost: float | None
    notes: list[str]


def fit_line(sizes: Sequence[float], costs: Sequence[float]) -> tuple[float, float]:
    """Return fixed cost and rate, both at least 0, from the median costs at the smallest and the largest size.

    A single size cannot separate them, so that the whole cost counts as the rate.
    """
    pairs = [*zip(sizes, costs, strict=True)]
    smallest, largest = min(sizes), max(sizes)
    first, last = (statistics.median(cost for size, cost in pairs if size == end) for end in (smallest, largest))
    if smallest == largest:
        return (0.0, last / largest) if largest else (last, 0.0)
    rate = max(0.0, last - first) / (largest - smallest)
    fixed = first - rate * smallest
    return (fixed, rate) if fixed >= 0 else (0.0, last / largest)


def fit_costs(trials: Sequence[TrialRun], most_audited: int, worker_cores: int) -> dict[str, LinearCost]:
    """Return the linear cost of each stage in any trial; on workers, worker_cores divides the time per image."""
    fitted = {}
    for stage in (START, *STAGES):
        having = [trial for trial in trials if stage in trial.stages]
        if having:
            limit = {**IMAGE_LIMITS, "audit": most_audited}.get(stage, math.inf)
            sizes = [min(trial.images, limit) for trial in having]
            lines = [fit_line(sizes, costs) for costs in zip(*(trial.stages[stage] for trial in having), strict=True)]
            fixed, rate = (Cost(*parts) for parts in zip(*lines, strict=True))
            if worker_cores and stage in ON_WORKERS:
                rate = rate._replace(seconds=rate.core_seconds / worker_cores)
            fitted[stage] = LinearCost(fixed, rate, limit)
    return fitted


def make_plan(
    trials: Sequence[TrialRun], images: int, most_audited: int, cores: int, worker_cores: int, price: float | None
) -> RunPlan:
    """Return the plan for a number of images; price is per core-hour, of workers and of this machine."""
    fitted = fit_costs(trials, most_audited, worker_cores)
    stages = {stage: line.predict(images) for stage, line in fitted.items()}
    on_workers = [stage for stage in stages if worker_cores and stage in ON_WORKERS]
    seconds = sum(stage.seconds for stage in stages.values())
    core_seconds = cores * seconds + worker_cores * sum(stages[stage].seconds for stage in on_workers)
    cost = None if price is None else price * core_seconds / 3600
    driver_bytes = BASE_BYTES + max(ROW_BYTES * images, AUDIT_COPIES * 4 * trials[-1].dim * min(images, most_audited))
    measured = sorted({trial.images for trial in trials})
    flat = [stage for stage, line in fitted.items() if line.rate.seconds == 0 and math.isinf(line.max_images)]
    notes = list_notes(images, measured, most_audited, flat)
    return RunPlan(images, measured, cores, worker_cores, stages, on_workers, seconds, driver_bytes, cost, notes)


def list_notes(images: int, measured: Sequence[int], most_audited: int, flat: Sequence[str]) -> list[str]:
    """Return one sentence per limit of an estimate; flat are the stages without a measurable rate."""
    largest, notes = measured[-1], []
    if len(measured) == 1:
        notes.append(f"Only runs of {largest:,} images were measured: too high for more images, too low for fewer.")
    if images > 1000 * largest:
        notes.append(f"This is {images / largest:,.0f} times the measured size, so errors are multiplied as well.")
    if images > largest:
        square = f"the square of their number up to {most_audited:,}"
        notes.append(f"The audit compares all pairs of images: its time grows with {square}, faster than in the plan.")
    if images > largest and flat:
        notes.append(
            f"The larger run took no longer than the smaller for {', '.join(flat)}, so the plan is too low: measure "
            f"again on an idle machine (--measure)."
        )
    return notes
