"""Trial runs: the whole pipeline over samples of the user's images, each in a process of its own, timed."""

from __future__ import annotations

import csv
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib import import_module as load
from pathlib import Path

import numpy as np

from components.data.image_file import ImageFile
from components.errors import UserError
from components.features import VERSION
from components.plan.sampling import FEWEST, draw_sample
from components.plan.trials import START, Timing, Trial, TrialRuns, read_trial
from components.rejects import RejectedImage
from components.run_dir import RunDir
from components.terminal.progress import Progress
from pipeline.config import Config
from pipeline.stages import hash_parts

# Images of the two trial runs: with the smaller nearly all is imports and other fixed parts; with the larger the map of
# the audit has all of its points, and efficientnet_lite0 takes some 15 s.
SIZES = (300, 1500)
# Rows on which the search of pairs is timed: some seconds, and its blocks are whole ones.
PAIR_ROWS = 6144

# What of a config changes how long an image takes.
TIMED = ("backbone", "head", "extract", "augment", "train", "audit")


def count_cores() -> int:
    """Return the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def trial_key(config: Config) -> str:
    """Return what trials are kept under: the parts of a config that time depends on, the version, the cores."""
    return hash_parts([VERSION, count_cores(), config.model_dump(mode="json", by_alias=True, include=set(TIMED))])


def read_last_run(config: Config, run: RunDir) -> Trial | None:
    """Return what the last run took, if it was one of this config on this kind of runner that began anew."""
    try:
        record = json.loads(run.record.read_text(encoding="utf-8"))
        former, now = record["config"], config.describe()
        same = record["version"] == VERSION and all(former[name] == now[name] for name in TIMED)
        local = former["beam"]["runner"] == "DirectRunner"
    except (FileNotFoundError, ValueError, KeyError):
        return None
    return read_trial(run) if same and local else None


def measure(
    config: Config, words: Sequence[str], files: Sequence[ImageFile], last: Trial | None, progress: Progress
) -> TrialRuns:
    """Time trial runs over samples of files; words are those of the command line that name the config.

    One small run where a last run much larger than it tells the rest. Raises UserError where a run cannot be made.
    """
    larger = min(SIZES[1], len(files))
    # All classes in both where that can be: the head and the report have their size from them.
    classes = len({file.text for file in files})
    smaller = min(max(min(SIZES[0], larger // 4), FEWEST * classes), larger // 2)
    sizes = [smaller] if last and last.images >= 4 * smaller else [smaller, larger]
    trials = []
    with progress.stage("trial"):
        for number, size in enumerate(sizes):
            progress.report(number, len(sizes), "runs")
            trials.append(run_trial(config, words, draw_sample(files, size)))
        pair_seconds = measure_pairs(trials[-1])
    return TrialRuns(trials, pair_seconds)


def run_trial(config: Config, words: Sequence[str], files: Sequence[ImageFile]) -> Trial:
    """Run a config over some files in a folder that is removed again; raises UserError where that fails."""
    with tempfile.TemporaryDirectory(prefix="topgraft-") as place:
        run = RunDir(Path(place, "run"))
        manifest = write_sample(files, Path(place, "images"), config)
        command = [sys.executable, "-m", "pipeline.cli", "run", *words, *override(config, manifest, run)]
        started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        result = subprocess.run(command, capture_output=True, text=True, errors="replace")
        seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
        trial = read_trial(run) if result.returncode in (0, 3) else None
    if trial is None:
        said = (result.stderr.strip() or "it says nothing").splitlines()[-1].removeprefix("topgraft: ").rstrip(".")
        raise UserError(
            f"A trial run over {len(files)} of the images failed ({said}): start topgraft run and mend what it names."
        )
    cores = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    in_stages = trial.stages.values()
    start = Timing(
        max(0.0, seconds - sum(timing.seconds for timing in in_stages)),
        max(0.0, cores - sum(timing.core_seconds for timing in in_stages)),
        0,
    )
    return trial._replace(stages={START: start, **trial.stages})


def override(config: Config, manifest: Path, run: RunDir) -> list[str]:
    """Return the key=value words by which a config becomes that of a trial: other data, no gate that could close."""
    data = {
        "path": str(manifest),
        "split": config.data.split.fractions,
        "duplicates": "keep",
        "max_reject_share": 1,
        "max_bytes": config.data.max_bytes,
        "max_pixels": config.data.max_pixels,
    }
    sections = {
        "data": data,
        "output_dir": str(run.root),
        "validation": {"on_anomaly": "warn"},
        "evaluate": {},
        "beam": {},
        "abstain": None,
        "train.warm_start": None,
        "train.class_weight": None,
    }
    return [f"{key}={json.dumps(value)}" for key, value in sections.items()]


def write_sample(files: Sequence[ImageFile], folder: Path, config: Config) -> Path:
    """Write a manifest of files that lie by themselves, and of copies of those that are records of others."""
    folder.mkdir()
    rows = []
    for number, file in enumerate(files):
        path = os.path.abspath(file.path) if "://" not in file.path else file.path
        if file.offset >= 0:
            path = str(folder / f"{number:06d}")
            try:
                Path(path).write_bytes(load("components.data.tfrecords").read_record(file.path, file.offset))
            except RejectedImage:  # as ingest would reject it
                continue
        rows.append((path, file.text, file.source))
    manifest = folder / "images.csv"
    with open(manifest, "w", encoding="utf-8", errors="surrogateescape", newline="") as table:
        csv.writer(table).writerows([("path", "label", "source"), *rows])
    return manifest


def measure_pairs(trial: Trial) -> tuple[float, float]:
    """Return the seconds, of the clock and of cores, that the audit takes for a pair of images.

    Its search of pairs grows with the square of their number, so that small samples do not show it.
    """
    random = np.random.default_rng(0)
    directions = random.standard_normal((PAIR_ROWS, trial.dim), np.float32)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    labels = random.integers(0, trial.classes, PAIR_ROWS)
    started, busy = time.perf_counter(), time.process_time()
    alone = np.arange(PAIR_ROWS)
    load("components.audit.near_duplicates").find_near_duplicates(directions, labels, np.zeros_like(alone), alone, 1.0)
    pairs = PAIR_ROWS * PAIR_ROWS / 2
    return (time.perf_counter() - started) / pairs, (time.process_time() - busy) / pairs
