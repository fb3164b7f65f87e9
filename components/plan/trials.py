"""Trials: samples of the images, and what each stage took in a run over one."""

from __future__ import annotations

import collections
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from components.data.image_file import ImageFile
from components.run_dir import STAGES, TUNING_STAGES, RunDir

# Images of a class, so that it can have one in each split.
FEWEST = 3


class Cost(NamedTuple):
    """What a stage takes: seconds of the clock, seconds of busy cores, bytes written."""

    seconds: float
    core_seconds: float
    written: float


class Trial(NamedTuple):
    """A run that computed everything: its images, the width of a bottleneck, the cost of each stage in order."""

    images: int
    dim: int
    stages: dict[str, Cost]


def draw_sample(files: Sequence[ImageFile], count: int, seed: int = 0) -> list[ImageFile]:
    """Return about so many files in their order, at random in each class by its share, FEWEST of it at least.

    Of more classes than that allows, those with the most images stand for all.
    """
    classes = collections.defaultdict(list)
    for place, file in enumerate(files):
        classes[file.text].append(place)
    large = [places for places in classes.values() if len(places) >= FEWEST]
    chosen = sorted(large, key=len, reverse=True)[: max(2, count // FEWEST)]
    share = count / max(1, sum(map(len, chosen)))
    draw = random.Random(seed)
    numbers = [min(len(places), max(FEWEST, round(share * len(places)))) for places in chosen]
    taken = [place for places, number in zip(chosen, numbers, strict=True) for place in draw.sample(places, number)]
    return [files[place] for place in sorted(taken)]


def read_trial(run: RunDir) -> Trial | None:
    """Return what the stages of a finished run took, None where one is missing or reused earlier results."""
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
    return Trial(records["ingest"]["outcome"]["written"], records["extract"]["outcome"]["dim"], stages)


def read_trials(file: Path, key: str) -> list[Trial]:
    """Return the trials that were kept under a key, none where the file has another key."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return [
            Trial(images, dim, {stage: Cost(*cost) for stage, cost in stages.items()})
            for images, dim, stages in content["trials"]
            if content["key"] == key
        ]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return []
