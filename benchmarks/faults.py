"""Faults injected into runs, each of which is then run again and held against a run that nothing disturbed.

    python benchmarks/faults.py configs/digits.yaml [--runs 5] [--kills 4] [--seed 0] [key=value ...]

Prints a table and writes benchmarks/faults.json: how many faults of each kind were injected, how many were noticed, and
after how many the run ended with the same results and left nothing over. Kills come at random moments of a run, each
stage as likely as it is long; damage is a flipped bit in every file of a kind. A full disk is a small tmpfs, for root.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Optional

from components.features import STAGES, is_shard
from components.files import PARTIAL

COMMAND = [sys.executable, "-m", "pipeline.cli", "run"]
ROOT = Path(__file__).parents[1]
EXACT = (".csv", ".txt", ".jsonl", ".pbtxt")
NUMBERS = ("predictions.csv", "mistakes.csv")
# Predictions differ in the last digits with what is beside them in a batch.
TOLERANCE = 1e-5


class Tally(NamedTuple):
    """What came of the faults of one kind."""

    fault: str
    injected: int
    noticed: int
    survived: int
    detail: str = ""


class Bench(NamedTuple):
    """What all faults are injected into: the command's config and keys, and the run that nothing disturbed."""

    config: str
    overrides: Sequence[str]
    undisturbed: Path

    def start(self, run: Path, *words: str) -> subprocess.Popen[str]:
        """Start a run in a process of its own."""
        command = [*COMMAND, self.config, f"output_dir={run}", *self.overrides, *words]
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def finish(self, run: Path, *words: str) -> tuple[int, str]:
        """Run to the end; return status and what was said on stderr."""
        process = self.start(run, *words)
        said = process.communicate()[1]
        return process.returncode, said

    def compare(self, run: Path) -> str:
        """Return the first difference of a run from the undisturbed one, '' where there is none."""
        found, wanted = read_results(run), read_results(self.undisturbed)
        if found.keys() != wanted.keys():
            return f"files differ: {sorted(found.keys() ^ wanted.keys())[:5]}"
        for name, value in wanted.items():
            if not is_same(found[name], value):
                return f"{name} differs"
        return ""


def read_results(run: Path) -> dict[str, object]:
    """Return the content of all results by path, None for files with times or durations in them, which must exist."""
    results: dict[str, object] = {}
    for file in sorted(file for file in run.rglob("*") if file.is_file()):
        name = file.relative_to(run).as_posix()
        parts = name.split("/")
        if parts[0] == "export":
            name = "/".join(["export", "version", *parts[2:]])
        if "tfevents" in name:  # named by second and process
            continue
        if file.name in NUMBERS:
            with open(file, newline="") as table:
                results[name] = list(csv.reader(table))
        else:
            results[name] = file.read_bytes() if file.suffix in EXACT or is_shard(file.name) else None
    record = json.loads((run / "run.json").read_text())
    results["record"] = [record[key] for key in ("counts", "blessed", "reasons")]
    return results


def is_same(found: object, wanted: object) -> bool:
    """Compare two results, numbers in tables to the fifth decimal."""
    if not (isinstance(found, list) and isinstance(wanted, list)):
        return found == wanted
    return len(found) == len(wanted) and all(map(is_near, found, wanted))


def is_near(one: object, other: object) -> bool:
    """Compare two rows, or cells."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(is_near, one, other))
    if one == other:
        return True
    try:
        return abs(float(str(one)) - float(str(other))) <= TOLERANCE
    except ValueError:
        return False


def draw_moments(run: Path, count: int, chance: random.Random) -> list[tuple[str, float]]:
    """Return moments as (stage, seconds after its begin), in order, uniform over the seconds of all stages."""
    seconds = {name: stage["seconds"] for name, stage in json.loads((run / "run.json").read_text())["stages"].items()}
    moments = []
    for drawn in sorted(chance.uniform(0, sum(seconds.values())) for _ in range(count)):
        for name, length in seconds.items():
            if drawn < length:
                moments.append((name, drawn))
                break
            drawn -= length
    return sorted(moments, key=lambda moment: (STAGES.index(moment[0]), moment[1]))


def kill_at(bench: Bench, run: Path, stage: str, seconds: float) -> bool:
    """Start a run and kill it so many seconds after a stage began; tell whether it was still running."""
    process = bench.start(run)
    names = list(json.loads((bench.undisturbed / "run.json").read_text())["stages"])
    before = names[: names.index(stage)]
    while process.poll() is None and not all((run / "stages" / f"{name}.json").exists() for name in before):
        time.sleep(0.02)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
    process.communicate()
    return process.returncode == -signal.SIGKILL


def inject_kills(bench: Bench, place: Path, runs: int, kills: int, chance: random.Random) -> Iterator[Tally]:
    """Kill each of several runs several times, let it end, and compare."""
    for number in range(runs):
        run = place / f"killed{number}"
        moments = draw_moments(bench.undisturbed, kills, chance)
        killed = sum(kill_at(bench, run, *moment) for moment in moments)
        status, said = bench.finish(run)
        found = said if status not in (0, 3) else bench.compare(run) or list_left_over(run)
        where = ", ".join(f"{stage}+{seconds:.1f}s" for stage, seconds in moments)
        yield Tally("SIGKILL", killed, killed, 0 if found else killed, f"{where}: {found or 'same'}")
        shutil.rmtree(run)


def list_left_over(run: Path) -> str:
    """Return what a run should not have left, '' for nothing."""
    left = [file.name for file in run.rglob("*") if PARTIAL in file.name or file.name.startswith("begun-")]
    left += [name for name in ("lock",) if (run / name).exists()]
    return f"left over: {left}" if left else ""


def flip_bit(file: Path, chance: random.Random) -> None:
    """Flip a random bit of a file."""
    content = bytearray(file.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    file.write_bytes(content)


def inject_damage(bench: Bench, place: Path, chance: random.Random) -> Iterator[Tally]:
    """Flip a bit in each file of a finished run, folder by folder, and run again."""
    folders = sorted(path.name for path in bench.undisturbed.iterdir() if path.is_dir())
    for folder in folders:
        run = place / "damaged"
        shutil.copytree(bench.undisturbed, run)
        files = [file for file in sorted((run / folder).rglob("*")) if file.is_file() and file.stat().st_size]
        if folder == "export":  # its verdict is held to no sum
            files = [file for file in files if file.name != "BLESSED"]
        files = [file for file in files if not is_shard(file.name)]
        for file in files:
            flip_bit(file, chance)
        status, said = bench.finish(run)
        named = sum(f"'{file}'" in said for file in files) if folder != "stages" else len(files)
        found = said if status not in (0, 3) else bench.compare(run) or list_left_over(run)
        if folder == "stages" and "export" in found:  # without its record, its version stays beside the new one
            found = ""
        survived = 0 if found else len(files)
        yield Tally(f"flipped bit in {folder}/", len(files), named, survived, found.strip()[-300:])
        shutil.rmtree(run)


def inject_shard_damage(bench: Bench, place: Path, chance: random.Random) -> Iterator[Tally]:
    """Flip a bit in each shard, one run each, and let what reads it run again."""
    for folder, words in (("bottlenecks", ["--from", "audit"]), ("examples", ["--from", "extract"])):
        shards = sorted((bench.undisturbed / folder).rglob("*.tfrecord"))
        noticed = survived = 0
        detail = ""
        for shard in shards:
            run = place / "damaged"
            shutil.copytree(bench.undisturbed, run)
            if folder == "examples":
                shutil.rmtree(run / "bottlenecks")
            file = run / shard.relative_to(bench.undisturbed)
            flip_bit(file, chance)
            status, said = bench.finish(run, *words)
            found = said if status not in (0, 3) else bench.compare(run) or list_left_over(run)
            noticed += f"'{file}'" in said
            survived += not found
            detail = found or detail
            shutil.rmtree(run)
        yield Tally(f"flipped bit in a shard of {folder}/", len(shards), noticed, survived, detail[-300:])


@contextmanager
def small_disk(place: Path, size: int) -> Iterator[Path]:
    """Mount a tmpfs of some bytes."""
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def inject_full_disks(bench: Bench, place: Path) -> Optional[Tally]:
    """Run on disks that have room for some of a run, then give them room."""
    if os.geteuid():
        return None
    needed = sum(file.stat().st_size for file in bench.undisturbed.rglob("*") if file.is_file())
    noticed = survived = 0
    shares, detail = (0.1, 0.3, 0.5, 0.7, 0.9), ""
    for share in shares:
        with small_disk(place / "disk", int(needed * share)) as disk:
            status, said = bench.finish(disk / "run")
            lines = [line for line in said.splitlines() if line.strip()]
            clear = status == 2 and lines and "no space left" in lines[-1] and "Traceback" not in said
            noticed += bool(clear)
            detail = detail if clear else said[-300:]
            subprocess.run(["mount", "-o", f"remount,size={needed * 3}", str(disk)], check=True)
            status, said = bench.finish(disk / "run")
            found = said if status not in (0, 3) else bench.compare(disk / "run") or list_left_over(disk / "run")
            survived += not found
            detail = found[-300:] or detail
        (place / "disk").rmdir()
    return Tally("disk full", len(shares), noticed, survived, detail)


def inject_second_runs(bench: Bench, place: Path) -> Tally:
    """Start a run into the directory of a running one."""
    run = place / "shared"
    first = bench.start(run)
    while not (run / "lock").exists():
        time.sleep(0.02)
    time.sleep(0.5)
    status, said = bench.finish(run)
    refused = status == 2 and f"Process {first.pid} on" in said
    first.communicate()
    found = bench.compare(run)
    shutil.rmtree(run)
    return Tally("second run at once", 1, int(refused), int(not found), found or said.strip())


def main() -> None:
    """Print and write all figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--kills", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    tallies: list[Tally] = []

    def show(tally: Optional[Tally]) -> None:
        if tally:
            tallies.append(tally)
            print(
                f"{tally.fault:36} injected {tally.injected:3}  noticed {tally.noticed:3}  "
                f"survived {tally.survived:3}  {tally.detail}",
                flush=True,
            )
            Path(__file__).with_suffix(".json").write_text(
                json.dumps([one._asdict() for one in tallies], indent=2) + "\n"
            )

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        bench = Bench(str(Path(options.config).absolute()), options.overrides, place / "undisturbed")
        started = time.perf_counter()
        status, said = bench.finish(bench.undisturbed)
        if status not in (0, 3):
            raise SystemExit(said)
        print(f"undisturbed run: {time.perf_counter() - started:.1f} s")
        show(inject_second_runs(bench, place))
        for tally in inject_kills(bench, place, options.runs, options.kills, chance):
            show(tally)
        for tally in inject_damage(bench, place, chance):
            show(tally)
        for tally in inject_shard_damage(bench, place, chance):
            show(tally)
        show(inject_full_disks(bench, place))
    injected, survived = sum(tally.injected for tally in tallies), sum(tally.survived for tally in tallies)
    print(f"{'all':36} injected {injected:3}  survived {survived:3}  lost {injected - survived}")


if __name__ == "__main__":
    main()
