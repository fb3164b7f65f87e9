"""A plan: what a config will take for a number of images, from its last run or from trial runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib import import_module as load
from typing import Any, NamedTuple

from components.data.image_file import ImageFile
from components.errors import UserError
from components.plan.estimate import (
    MOST_SHARDS,
    SHARDED,
    StageEstimate,
    core_seconds_each,
    estimate_driver_bytes,
    estimate_stages,
    list_unrated,
    plan_shards,
    price_stages,
)
from components.plan.simulation import Fleet, Makespan, simulate_makespan
from components.plan.trials import TrialRuns, measure_shards, read_trial_runs, write_trial_runs
from components.plan.workload import StageLaws, Workload, fit_laws
from components.run_dir import RunDir
from components.storage.ownership import claim_files
from components.terminal.progress import Progress
from pipeline.config import Config
from pipeline.output_dir import check_own
from pipeline.pipeline import list_data
from pipeline.trial_runs import count_cores, measure, read_last_run, trial_key

# By how much equal work differs on rented machines that are to be alike, relative to its mean: J. Schad et al.,
# "Runtime Measurements in the Cloud", VLDB 2010, found 0.24 for CPU time on one size of machine.
MACHINE_SPREAD = 0.24
# What a straggler is: one that takes three times as long. (J. Dean and S. Ghemawat, "MapReduce", OSDI 2004, tell of
# machines with a bad disk or a disabled cache that took many times as long.)
SLOWDOWN = 3.0
# Shards whose fate is drawn in each simulation: some seconds.
DRAWN_SHARDS = 400_000
MOST_DRAWS = 200
# A shard that is lost more often than not is hardly ever done.
MOST_LOSSES_PER_SHARD = 1.0


class Simulation(NamedTuple):
    """What-if: the makespan of ingest and extract with so many workers and shards."""

    workers: int
    shards: int
    makespan: Makespan

    @property
    def worker_hours(self) -> float:
        return self.workers * self.makespan.median / 3600


class Plan(NamedTuple):
    """What a run will take; simulations and price are there where workers and a price are given."""

    images: int
    measured: list[int]
    cores: int
    fleet: Fleet | None
    shards: int
    stages: list[StageEstimate]
    driver_bytes: float
    cost: float | None
    simulations: list[Simulation]
    notes: list[str]

    @property
    def seconds(self) -> float:
        return sum(stage.seconds for stage in self.stages)

    @property
    def worker_seconds(self) -> float:
        return sum(stage.worker_seconds for stage in self.stages)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            **self._asdict(),
            "fleet": self.fleet and self.fleet._asdict(),
            "stages": {stage.stage: {**stage._asdict()} for stage in self.stages},
            "simulations": [
                {"workers": row.workers, "shards": row.shards, **row.makespan._asdict()} for row in self.simulations
            ],
            "seconds": self.seconds,
            "worker_seconds": self.worker_seconds,
        }


def make_plan(
    config: Config,
    words: Sequence[str],
    images: int | None,
    fleet: Fleet | None,
    price: float | None,
    again: bool,
    progress: Progress,
) -> Plan:
    """Return the plan of a config, which words name on a command line; of all its images where no number is given.

    Trial runs are made where none are kept in the run directory, or again. Raises UserError without data.
    """
    run, key = RunDir(config.run_folder), trial_key(config)
    check_own(run.root)
    last, kept = read_last_run(config, run), read_trial_runs(run.throughput, key)
    files: list[ImageFile] = []
    if again or not kept or not images:
        try:
            files = list_data(config, progress).files
        except UserError:
            if again or not (kept or last):
                raise
    if files and (again or not kept):
        fresh = measure(config, words, files, last, progress)
        kept = fresh._replace(trials=[*(kept.trials if kept else []), *fresh.trials])
        claim_files(run.root, [run.throughput.name])
        write_trial_runs(run.throughput, key, kept)
    measured = kept or TrialRuns([], (0.0, 0.0))
    if last:
        measured = measured._replace(trials=[*measured.trials, last])
    count = images or len(files) or (last.images if last else measured.trials[-1].images)
    return estimate(config, run, measured, count, fleet, price)


def estimate(
    config: Config, run: RunDir, measured: TrialRuns, images: int, fleet: Fleet | None, price: float | None
) -> Plan:
    """Return the plan that follows from what was measured."""
    cores, trials = count_cores(), measured.trials
    workload = make_workload(config, measured.pair_seconds)
    laws = fit_laws(trials, workload)
    suitable = plan_shards(images, laws["ingest"].written.each, fleet)
    shards = config.beam.shards or suitable
    stages = estimate_stages(images, laws, workload, fleet, shards)
    driver_bytes = estimate_driver_bytes(images, trials[-1].dim, workload)
    simulations = simulate(laws, images, shards, fleet, measure_shards(run)) if fleet else []
    cost = None if price is None else price_stages(stages, fleet, cores, price)
    sizes = sorted({trial.images for trial in trials})
    notes = list_notes(sizes, images, shards, driver_bytes, [trial.classes for trial in trials])
    unrated = list_unrated(laws, fleet)
    if unrated and images > sizes[-1]:
        notes.append(
            f"The larger run took no longer than the smaller for {', '.join(unrated)}, which counts as the same for "
            f"any number of images: too little. Make trial runs again on a machine without other work: --measure."
        )
    if config.data.split.train_per_class:
        notes.append("data.split.train_per_class plays no part in it: the splits are taken to have their shares.")
    if not suitable / 2 <= shards <= 2 * suitable:
        notes.append(f"beam.shards is {shards:,}, which the plan keeps: {suitable:,} would suit.")
    return Plan(images, sizes, cores, fleet, shards, stages, driver_bytes, cost, simulations, notes)


def make_workload(config: Config, pair_seconds: tuple[float, float]) -> Workload:
    """Return what the config asks for; its splits by their shares, as trial runs have them."""
    split, recipe = config.data.split, config.recipe
    tuning = config.train.finetune
    return Workload(
        split.fractions,
        lambda count: load("components.train.train").choose_epochs(count, recipe),
        pair_seconds,
        config.audit.max_images,
        tuning.epochs if tuning else 0,
    )


def simulate(
    laws: dict[str, StageLaws], images: int, shards: int, fleet: Fleet, measured_spread: float
) -> list[Simulation]:
    """Return simulations of the plan, of other numbers of shards, and of half and twice its workers."""
    each = sum(core_seconds_each(laws[stage]) for stage in SHARDED if stage in laws)
    others = 2 * shards if 2 * shards <= MOST_SHARDS else shards // 2
    what_if = [(fleet.workers, shards), (fleet.workers, others), (max(1, fleet.workers // 2), shards)]
    what_if.append((2 * fleet.workers, shards))
    draws = max(5, min(MOST_DRAWS, DRAWN_SHARDS // shards))
    simulations = []
    for workers, number in what_if:
        seconds = images * each / number
        if fleet.losses_per_hour * seconds / 3600 > MOST_LOSSES_PER_SHARD:
            raise UserError(
                f"A shard takes {seconds / 3600:.1f} hours and a worker is lost {fleet.losses_per_hour:g} times an "
                f"hour, so that hardly a shard is done: set beam.shards to more than {number} or --lost to less."
            )
        # A shard of hashed keys holds a Poisson number of images.
        spread = math.hypot(MACHINE_SPREAD, max(measured_spread, math.sqrt(number / images)))
        found = simulate_makespan(number, seconds, spread, fleet._replace(workers=workers), draws)
        simulations.append(Simulation(workers, number, found))
    return simulations


def list_notes(
    sizes: Sequence[int], images: int, shards: int, driver_bytes: float, classes: Sequence[int]
) -> list[str]:
    """Return what a reader of the plan has to know beside its numbers, a sentence each."""
    notes = []
    if len(sizes) == 1:
        notes.append(
            f"All was measured at {sizes[0]:,} images alone, so what a run takes whatever its size is not told from "
            f"what each image takes: too much is said of more images, too little of fewer."
        )
    if images > 1000 * sizes[-1]:
        notes.append(
            f"This is {images / sizes[-1]:,.0f} times what was measured: what grows faster than the images, and is not "
            f"the audit's search of pairs, is not in it."
        )
    if images / shards > 2 * load("components.shards.spans").IMAGES_PER_SHARD:
        notes.append(f"A shard holds {images / shards:,.0f} images: that much is done again when its worker is lost.")
    if driver_bytes > 2**36:
        notes.append(f"The machine of the command needs {driver_bytes / 2**30:,.0f} GiB of memory.")
    if len(set(classes)) > 1:
        notes.append(f"Runs of {min(classes):,} and of {max(classes):,} classes are compared.")
    return notes
