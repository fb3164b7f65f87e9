"""Estimate the cost of a run from trial runs over samples of the user's images, or from the last run."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from components.data.image_file import ImageFile
from components.errors import UserError
from components.features import VERSION
from components.plan.estimate import START, RunPlan, make_plan
from components.plan.trials import MIN_PER_CLASS, Cost, TrialRun, draw_sample, read_trial, read_trials
from components.rejects import RejectedImage
from components.run_dir import RunDir
from components.storage.files import write_json
from components.storage.ownership import claim_files
from components.terminal.progress import Progress
from pipeline.config import Config
from pipeline.data_place import is_config
from pipeline.output_dir import check_own
from pipeline.pipeline import list_data
from pipeline.stage_inputs import hash_parts

# Images of the two trial runs: the smaller has mostly fixed cost, the larger about 15 s of extraction.
SIZES = (300, 1500)
# Keys of a config that change the time per image.
TIMED_KEYS = ("backbone", "head", "extract", "augment", "train", "audit")


def plan_run(
    config: Config,
    words: Sequence[str],
    images: int | None,
    worker_cores: int,
    price: float | None,
    again: bool,
    progress: Progress,
) -> RunPlan:
    """Return the plan of a config for a number of images, by default all; words are its command-line arguments.

    Trial runs are made if the run directory has none, or if again. Raises UserError without data.
    """
    run, key = RunDir(config.run_folder), trial_key(config)
    check_own(run.root)
    last, kept = read_last_run(config, run), read_trials(run.throughput, key)
    files: Sequence[ImageFile] = []
    if again or not kept or not images:
        try:
            files = list_data(config, progress).files
        except UserError:
            if again or not (kept or last):
                raise
    if files and (again or not kept):
        kept += run_trials(config, words, files, last, progress)
        claim_files(run.root, [run.throughput.name])
        write_json(run.throughput, {"key": key, "trials": kept})
    trials = [*kept, *([last] if last else [])]
    count = images or len(files) or trials[-1].images
    plan = make_plan(trials, count, config.audit.max_images, count_cores(), worker_cores, price)
    if config.data.split.train_per_class:
        plan.notes.append("Trial runs ignore data.split.train_per_class and split by fractions.")
    return plan


def count_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def trial_key(config: Config) -> str:
    """Return a hash of all that the time of a trial depends on: version, cores and keys of the config."""
    return hash_parts([VERSION, count_cores(), config.model_dump(mode="json", by_alias=True, include=set(TIMED_KEYS))])


def read_last_run(config: Config, run: RunDir) -> TrialRun | None:
    """Return the costs of the last run if it computed everything, on this machine and with this config, else None."""
    with suppress(FileNotFoundError, ValueError, KeyError):
        record = json.loads(run.record.read_text(encoding="utf-8"))
        former, now = record["config"], config.describe()
        same = record["version"] == VERSION and all(former[name] == now[name] for name in TIMED_KEYS)
        if same and former["beam"]["runner"] == "DirectRunner":
            return read_trial(run)
    return None


def run_trials(
    config: Config, words: Sequence[str], files: Sequence[ImageFile], last: TrialRun | None, progress: Progress
) -> list[TrialRun]:
    """Return runs over a small and a larger sample of files; only the small one if the last run was much larger."""
    larger = min(SIZES[1], len(files))
    # If possible with all classes in both, as these decide the size of the head and of the report.
    classes = len({file.text for file in files})
    smaller = min(max(min(SIZES[0], larger // 4), MIN_PER_CLASS * classes), larger // 2)
    sizes = [smaller] if last and last.images >= 4 * smaller else [smaller, larger]
    trials = []
    with progress.stage("trial"):
        for number, size in enumerate(sizes):
            progress.report(number, len(sizes), "runs")
            trials.append(run_trial(config, words, draw_sample(files, size)))
    return trials


def run_trial(config: Config, words: Sequence[str], files: Sequence[ImageFile]) -> TrialRun:
    """Return the costs of a run over files, in its own process and a temporary folder; raises UserError if it fails."""
    with tempfile.TemporaryDirectory(prefix="topgraft-") as place:
        run = RunDir(Path(place, "run"))
        manifest = write_sample(files, Path(place, "images"))
        limits = {"max_bytes": config.data.max_bytes, "max_pixels": config.data.max_pixels, "max_reject_share": 1}
        data = {"path": str(manifest), "split": config.data.split.fractions, "duplicates": "keep", **limits}
        # No gate that could stop the run, and no reference to other data.
        neutral = {"validation": {"on_anomaly": "warn"}, "evaluate": {}, "beam": {}, "abstain": None}
        own = {
            "data": data,
            "output_dir": str(run.root),
            **neutral,
            "train.warm_start": None,
            "train.class_weight": None,
        }
        overrides = [f"{key}={json.dumps(value)}" for key, value in own.items()]
        place, *given = words
        command = [sys.executable, "-m", "pipeline.cli", "run"]
        command += [place if is_config(Path(place)) else str(manifest), *given, *overrides]
        before = os.times()
        result = subprocess.run(command, capture_output=True, text=True, errors="replace")
        after = os.times()
        trial = read_trial(run) if result.returncode in (0, 3) else None
    if trial is None:
        said = (result.stderr.strip() or "without a message").splitlines()[-1].removeprefix("topgraft: ").rstrip(".")
        raise UserError(
            f"A trial run over {len(files)} of the images failed ({said}): start topgraft run and correct the error."
        )
    busy = sum(after[2:4]) - sum(before[2:4])  # of child processes
    whole = Cost(after.elapsed - before.elapsed, busy, 0)
    fields = zip(whole, *trial.stages.values(), strict=True)
    start = Cost(*(max(0.0, total - sum(in_stages)) for total, *in_stages in fields))
    return trial._replace(stages={START: start, **trial.stages})


def write_sample(files: Sequence[ImageFile], folder: Path) -> Path:
    """Write a manifest of files to a folder, with copies of those that are TFRecord records; return its path."""
    folder.mkdir()
    manifest = folder / "images.csv"
    with open(manifest, "w", encoding="utf-8", errors="surrogateescape", newline="") as table:
        rows = csv.writer(table)
        rows.writerow(("path", "label", "source"))
        for number, file in enumerate(files):
            path = os.path.abspath(file.path) if "://" not in file.path else file.path
            if file.offset >= 0:
                from components.data.tfrecords import read_record  # loads TensorFlow

                path = str(folder / f"{number:06d}")
                try:
                    Path(path).write_bytes(read_record(file.path, file.offset))
                except RejectedImage:  # ingest would reject it too
                    continue
            rows.writerow((path, file.text, file.source))
    return manifest
