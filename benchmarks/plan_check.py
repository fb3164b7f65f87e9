"""What topgraft plan predicts from trial runs, beside real runs of two sizes, stage by stage.

    python benchmarks/plan_check.py configs/caltech101.yaml data/caltech101 [--sizes 1000 9000] [--rounds 3] [key=value]

Prints a table and writes benchmarks/plan_check.json. Each round makes trial runs anew and then one run of each size, so
that both see the same load of the machine; a plan is of the trial runs of all rounds, a run's time the median of the
rounds. Core seconds are those of busy cores, which other programs on the machine change less than they do the clock's.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from components.data.listing import list_images
from components.plan.estimate import START
from components.plan.trials import Cost, draw_sample, read_trial
from components.run_dir import RunDir

TOPGRAFT = [sys.executable, "-m", "pipeline.cli"]


def call(*words: object) -> str:
    """Run a command; return what it prints."""
    result = subprocess.run([*TOPGRAFT, *map(str, words)], capture_output=True, text=True)
    if result.returncode not in (0, 3):
        raise SystemExit(result.stderr)
    return result.stdout


def link_images(images: Path, folder: Path, count: int) -> Path:
    """Link about so many of the images, each class with its share."""
    for file in draw_sample(list_images(images).files, count, seed=1):
        link = folder / file.key
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(Path(file.path).resolve())
    return folder


def time_run(words: list[str]) -> dict[str, Cost]:
    """Run a config in a folder that is removed again; return the cost of each stage, and what is left, as START."""
    with tempfile.TemporaryDirectory() as place:
        before = os.times()
        call("run", *words, f"output_dir={place}/run", "--quiet")
        after, trial = os.times(), read_trial(RunDir(Path(place, "run")))
    assert trial
    busy = sum(after[2:4]) - sum(before[2:4])  # of child processes
    fields = zip((after.elapsed - before.elapsed, busy, 0), *trial.stages.values(), strict=True)
    return {START: Cost(*(total - sum(parts) for total, *parts in fields)), **trial.stages}


def main() -> None:
    """Print and write all figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config")
    parser.add_argument("images", type=Path)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 9000])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    took: dict[int, list[dict[str, Cost]]] = {size: [] for size in options.sizes}
    loads = []
    with tempfile.TemporaryDirectory() as place:
        plan = [options.config, f"data.path={options.images}", f"output_dir={place}/plan", *options.overrides]
        folders = {size: link_images(options.images, Path(place, str(size)), size) for size in options.sizes}
        counts = {size: len(list_images(folder).files) for size, folder in folders.items()}
        for number in range(options.rounds):
            call("plan", *plan, "--quiet", *(["--measure"] if number else []))
            for size in options.sizes:
                took[size].append(time_run([options.config, f"data.path={folders[size]}", *options.overrides]))
                loads.append(os.getloadavg()[0])
            print(f"round {number + 1} of {options.rounds}, load {loads[-1]:.1f}", file=sys.stderr, flush=True)
        plans = {size: json.loads(call("plan", *plan, "--images", counts[size], "--json")) for size in options.sizes}
    figures: dict[str, object] = {"loads": loads, "cores": os.cpu_count()}
    for size, runs in took.items():
        figures[str(counts[size])] = compare(counts[size], plans[size], runs)
    Path(__file__).with_suffix(".json").write_text(json.dumps(figures, indent=2) + "\n")


def compare(images: int, plan: dict, runs: list[dict[str, Cost]]) -> dict[str, dict[str, list[float]]]:
    """Print and return predicted and measured seconds by stage, and of all."""
    print(f"{images:,} images: {'':6} predicted  measured  error   core seconds: predicted  measured  error")
    rows = {}
    for stage in [*plan["stages"], "all"]:
        pairs = []
        for kind in ("seconds", "core_seconds"):
            predicted = {name: estimate[kind] for name, estimate in plan["stages"].items()}
            measured = [{name: getattr(cost, kind) for name, cost in run.items()} for run in runs]
            expected = sum(predicted.values()) if stage == "all" else predicted[stage]
            found = [sum(run.values()) if stage == "all" else run[stage] for run in measured]
            pairs.append((expected, statistics.median(found)))
        cells = [f"{one:9.1f} {other:9.1f} {one / other - 1:+6.0%}" for one, other in pairs if other]
        print(f"{stage:20} {cells[0]}                 {cells[1] if len(cells) > 1 else ''}")
        rows[stage] = {"seconds": [*pairs[0]], "core_seconds": [*pairs[1]]}
    return rows


if __name__ == "__main__":
    main()
