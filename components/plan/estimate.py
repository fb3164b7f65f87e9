"""Capacity: from what stages took at small sizes to the time, bytes, memory, shards and cost of large ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from components.plan.simulation import Fleet, ideal_makespan
from components.plan.workload import BOUNDED, StageLaws, Workload, count_pairs, count_units
from components.shards.spans import IMAGES_PER_SHARD, choose_shards

# What workers do: by shards of images, or by whatever parts TFDV and TFMA find. All else is done where the command is.
SHARDED = ("ingest", "extract", "reextract")
ON_WORKERS = (*SHARDED, "validate", "evaluate")

# The most of a shard that is read and written again when its worker is lost, and the most shards that names have room
# for. So many for each vCPU, that one which takes twice as long as the others costs a quarter of the whole.
SHARD_BYTES = 256 * 2**20
MOST_SHARDS = 99_999
SHARDS_PER_VCPU = 4
# Fewer images a shard would cost more in files than in work.
FEWEST_IMAGES = 32

# What ingest does with each image where the command is, to divide the data into splits and shards, measured with 50,000
# and 300,000 made-up images on a core of the machine of the README; and what it holds of each, of 200,000.
ROW_SECONDS = 0.00014
ROW_BYTES = 1600
# Copies of its bottlenecks that the audit has at once, as read, joined, as directions and as components: 25.9 KiB an
# image of 1,280 floats, measured with 5,000 and 15,000.
AUDIT_COPIES = 5
# Python with TensorFlow, Beam, TFDV and TFMA, at the end of a run of 1,500 images.
BASE_BYTES = 1.5 * 2**30


class StageEstimate(NamedTuple):
    """What a stage will take: seconds of the clock, of all workers and of busy cores; bytes read and written."""

    stage: str
    on_workers: bool
    seconds: float
    worker_seconds: float
    core_seconds: float
    read: float
    written: float


def estimate_stages(
    images: int, laws: Mapping[str, StageLaws], workload: Workload, fleet: Fleet | None, shards: int
) -> list[StageEstimate]:
    """Return what each stage will take with a fleet of workers, or as in the trials where there is none.

    A worker's vCPU is taken to be as fast as a core of the machine of the trials.
    """
    written = {stage: estimate_written(stage, images, law, workload) for stage, law in laws.items()}
    estimates = []
    for stage, laws_of_stage in laws.items():
        units, pairs = count_units(stage, images, workload), count_pairs(stage, images, workload)
        seconds, core_seconds = (
            law.cost(units) + each * pairs
            for law, each in zip(
                (laws_of_stage.seconds, laws_of_stage.core_seconds), workload.pair_seconds, strict=True
            )
        )
        worker_seconds, on_workers = 0.0, fleet is not None and stage in ON_WORKERS
        if fleet is not None and on_workers:
            job = estimate_job(stage, images, laws_of_stage, fleet, shards)
            seconds = job + (ROW_SECONDS * images if stage == "ingest" else 0.0)
            worker_seconds = fleet.workers * job
        read = estimate_read(stage, written, workload)
        estimates.append(StageEstimate(stage, on_workers, seconds, worker_seconds, core_seconds, read, written[stage]))
    return estimates


def estimate_job(stage: str, images: int, law: StageLaws, fleet: Fleet, shards: int) -> float:
    """Return the seconds for which a stage has workers: their start, the fixed part, the shards in waves."""
    each = core_seconds_each(law)
    if stage not in SHARDED:
        return fleet.startup + law.seconds.fixed + images * each / (fleet.workers * fleet.slots)
    return law.seconds.fixed + ideal_makespan(shards, images * each / shards, fleet)


def core_seconds_each(law: StageLaws) -> float:
    """Return the seconds of a core for a unit of work; those of the clock where cores' were not taken."""
    return law.core_seconds.each or law.seconds.each


def list_unrated(laws: Mapping[str, StageLaws], fleet: Fleet | None) -> list[str]:
    """Return the stages that go over all images and of which trials showed no time that grows with them."""
    rates = {stage: core_seconds_each(law) if fleet else law.seconds.each for stage, law in laws.items()}
    return [stage for stage, rate in rates.items() if rate == 0 and stage in (*ON_WORKERS, "train", "finetune")]


def estimate_written(stage: str, images: int, law: StageLaws, workload: Workload) -> float:
    """Return the bytes that a stage writes."""
    return law.written.cost(count_units(stage, images, workload) if stage in BOUNDED else images)


def estimate_read(stage: str, written: Mapping[str, float], workload: Workload) -> float:
    """Return the bytes that a stage reads of the images and of what stages before it wrote."""
    train, val, test = workload.split(1.0)
    records, bottlenecks = written.get("ingest", 0.0), written.get("reextract", written.get("extract", 0.0))
    return {
        "ingest": records,  # the images are stored as they are
        "validate": records,
        "extract": records,
        "audit": written.get("extract", 0.0),
        "train": (train + val) * written.get("extract", 0.0),
        "finetune": workload.tuning_epochs * (train + val) * records,
        "reextract": records,
        "evaluate": test * bottlenecks,
        "report": written.get("evaluate", 0.0),
    }.get(stage, 0.0)


def plan_shards(images: int, record_bytes: float, fleet: Fleet | None) -> int:
    """Return into how many shards to cut the data: as a run does by itself, or more where workers want more.

    A power of two where names have room for it, so that the number seldom changes as data grows.
    """
    if fleet is None:
        return min(choose_shards(images), MOST_SHARDS)
    wanted = max(
        math.ceil(images / IMAGES_PER_SHARD),
        math.ceil(images * record_bytes / SHARD_BYTES),
        SHARDS_PER_VCPU * fleet.workers * fleet.slots,
    )
    wanted = max(1, min(wanted, images // FEWEST_IMAGES))
    rounded = 1 << (wanted - 1).bit_length()
    return rounded if rounded <= MOST_SHARDS else min(wanted, MOST_SHARDS)


def estimate_driver_bytes(images: int, dim: int, workload: Workload) -> float:
    """Return the most memory that the command needs at once, for the rows of ingest or the bottlenecks of the audit."""
    audit = AUDIT_COPIES * 4.0 * dim * min(images, workload.most_audited)
    return BASE_BYTES + max(ROW_BYTES * images, audit)


def price_stages(estimates: Sequence[StageEstimate], fleet: Fleet | None, driver_vcpus: int, price: float) -> float:
    """Return the cost at a price for a vCPU-hour: of workers by the stage, of the machine here for all the time."""
    seconds = sum(estimate.seconds for estimate in estimates)
    workers = sum(estimate.worker_seconds for estimate in estimates)
    return price / 3600 * (driver_vcpus * seconds + (workers * fleet.slots if fleet else 0.0))
