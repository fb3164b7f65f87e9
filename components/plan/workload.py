"""Workload: what a config asks for, the units of work that each stage makes of images, and the laws of their cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from components.audit.data_map import MOST_POINTS
from components.plan.trials import START, Law, Trial, fit_law
from components.run_dir import STAGES
from components.shards.pictures import MOST_SMALL

# Stages whose output is as large as their work and not as the number of images.
BOUNDED = (START, "export", "report")


@dataclass(frozen=True)
class Workload:
    """What a config asks for as far as time depends on it.

    shares are those of the splits; count_epochs maps images of the train split to epochs; pair_seconds is what the
    audit takes for a pair of images, by the clock and by cores, most_audited of how many it is at most; tuning_epochs
    are those of fine-tuning.
    """

    shares: Mapping[str, float]
    count_epochs: Callable[[int], int]
    pair_seconds: tuple[float, float] = (0.0, 0.0)
    most_audited: float = math.inf
    tuning_epochs: int = 0

    def split(self, images: float) -> tuple[float, float, float]:
        """Return the images of train, val and test."""
        train, val, test = self.shares.values()
        return images * train, images * val, images * test


class StageLaws(NamedTuple):
    """How the cost of a stage follows from its units of work: seconds of the clock and of cores, bytes from images."""

    seconds: Law
    core_seconds: Law
    written: Law


def count_units(stage: str, images: float, workload: Workload) -> float:
    """Return the units of work in which a stage's time beyond its fixed part is proportional."""
    train, val, test = workload.split(images)
    if stage == "audit":  # all but the search of pairs is a map of so many
        return min(images, MOST_POINTS)
    if stage == "train":
        return images + workload.count_epochs(max(1, round(train))) * (train + val)
    if stage == "finetune":
        return workload.tuning_epochs * (train + val)
    if stage in (START, "export"):
        return 1.0
    if stage == "report":  # pictures of the map and of test images, of which it looks for so many
        return min(min(images, MOST_POINTS) + test, MOST_SMALL)
    return images


def count_pairs(stage: str, images: float, workload: Workload) -> float:
    """Return the pairs of images that a stage compares."""
    return min(images, workload.most_audited) ** 2 / 2 if stage == "audit" else 0.0


def fit_laws(trials: Sequence[Trial], workload: Workload) -> dict[str, StageLaws]:
    """Return the laws of every stage, in the order in which a trial has them."""
    laws = {}
    for stage in (START, *STAGES):
        having = [trial for trial in trials if stage in trial.stages]
        if not having:
            continue
        images = [float(trial.images) for trial in having]
        timings = [trial.stages[stage] for trial in having]
        units = [count_units(stage, some, workload) for some in images]
        pairs = [count_pairs(stage, some, workload) for some in images]
        clock, cores = workload.pair_seconds
        seconds = [max(timing.seconds - clock * some, 0.0) for timing, some in zip(timings, pairs, strict=True)]
        busy = [
            (unit, max(timing.core_seconds - cores * some, 0.0))
            for timing, unit, some in zip(timings, units, pairs, strict=True)
            if timing.core_seconds  # a run of an earlier version has none
        ]
        laws[stage] = StageLaws(
            fit_law(units, seconds),
            fit_law(*zip(*busy, strict=True)) if busy else Law(0.0, 0.0),
            fit_law(units if stage in BOUNDED else images, [float(timing.written) for timing in timings]),
        )
    return laws
