"""Draw samples of the images for trial runs, and read the cost of each stage of a run."""

from __future__ import annotations

import collections
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from components.data.image_file import ImageFile
from components.run_dir import STAGES, TUNING_STAGES, RunDir

# Images per class in a sample, one for each split.
MIN_PER_CLASS = 3


class Cost(NamedTuple):
    """Cost of a stage: elapsed seconds, seconds of busy cores, bytes written."""

    seconds: float
    core_seconds: float
    written: float


class TrialRun(NamedTuple):
    """A run that computed everything: number of images, width of a bottleneck, cost of each stage in order."""

    images: int
    dim: int
    stages: dict[str, Cost]


def draw_sample(files: Sequence[ImageFile], count: int, seed: int = 0) -> list[ImageFile]:
    """Return about count files in input order, drawn at random in proportion to the classes.

    Each class has MIN_PER_CLASS files at least; if there are too many classes, only the largest are drawn from.
    """
    classes = collections.defaultdict(list)
    for place, file in enumerate(files):
        classes[file.text].append(place)
    large = [places for places in classes.values() if len(places) >= MIN_PER_CLASS]
    chosen = sorted(large, key=len, reverse=True)[: max(2, count // MIN_PER_CLASS)]
    fraction = count / max(1, sum(map(len, chosen)))
    draw = random.Random(seed)
    numbers = [min(len(places), max(MIN_PER_CLASS, round(fraction * len(places)))) for places in chosen]
    taken = [place for places, number in zip(chosen, numbers, strict=True) for place in draw.sample(places, number)]
    return [files[place] for place in sorted(taken)]


def read_trial(run: RunDir) -> TrialRun | None:
    """Return the costs of a finished run, or None where a stage is missing or reused earlier results."""
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
        name: Cost(record["seconds"], record["core_seconds"], sum(size or 0 for size, _ in record["files"].values()))
        for name, record in records.items()
    }
    return TrialRun(records["ingest"]["outcome"]["written"], records["extract"]["outcome"]["dim"], stages)


def read_trials(file: Path, key: str) -> list[TrialRun]:
    """Return the trials of a file that has the given key, [] for any other file."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return [
            TrialRun(images, dim, {stage: Cost(*cost) for stage, cost in stages.items()})
            for images, dim, stages in content["trials"]
            if content["key"] == key
        ]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return []
