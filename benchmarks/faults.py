"""Faults injected into runs, each of which is then run again and held against a run that nothing disturbed.

    python benchmarks/faults.py configs/digits.yaml [key=value ...] [--runs 5] [--kills 4] [--faults kill disk]

Prints a table and writes benchmarks/faults.json: how many faults of each kind were injected, how many were noticed, and
after how many the run ended with the same results and left nothing over. Kills come at random moments of a run, each
stage as likely as it is long; damage is a write that flips a bit in every file of a kind. A full disk is a small tmpfs,
for root. Harmful images are copies of a healthy one, on which a decoder that is changed for this dies, hangs or raises.
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
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from components.data.published import locate_dataset
from components.run_dir import STAGES
from components.shards.names import is_shard
from components.storage.files import PARTIAL
from components.terminal.progress import Progress
from pipeline.load_config import load_config
from pipeline.run_lock import LOCK_FILE

COMMAND = [sys.executable, "-m", "pipeline.cli", "run"]
ROOT = Path(__file__).parents[1]
EXACT = (".csv", ".txt", ".jsonl", ".pbtxt")
NUMBERS = ("predictions.csv", "mistakes.csv")
# Predictions differ in the last digits with what is beside them in a batch.
TOLERANCE = 1e-5
INTERRUPTED = "topgraft: interrupted; the same command continues where it stopped."
# Python runs a module of this name first in every process, children and workers among them.
HARMFUL = """
import importlib.abc, importlib.util, os, signal, sys, time

class Harm(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path, target=None):
        if name != "components.images.check":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        self.loader, spec.loader = spec.loader, self
        return spec

    def create_module(self, spec):
        return self.loader.create_module(spec)

    def exec_module(self, module):
        self.loader.exec_module(module)
        inspect_image = module.inspect_image

        def harm(content, limits):
            if content.endswith(b"killed"):
                os.kill(os.getpid(), signal.SIGKILL)
            if content.endswith(b"crashes"):
                os.kill(os.getpid(), signal.SIGSEGV)
            if content.endswith(b"hangs"):
                time.sleep(10**6)
            if content.endswith(b"raises"):
                raise SystemError("in a decoder")
            return inspect_image(content, limits)

        module.inspect_image = harm

sys.meta_path.insert(0, Harm())
"""
HARMS = ("killed", "crashes", "hangs", "raises")
PROCESSES = ("beam.direct_running_mode=multi_processing", "beam.direct_num_workers=2")


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


def signal_at(bench: Bench, run: Path, stage: str, seconds: float, number: int) -> tuple[int, str]:
    """Start a run and send a signal so many seconds after a stage began; return its status and what it said."""
    process = bench.start(run)
    names = list(json.loads((bench.undisturbed / "run.json").read_text())["stages"])
    before = names[: names.index(stage)]
    while process.poll() is None and not all((run / "stages" / f"{name}.json").exists() for name in before):
        time.sleep(0.02)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(number)
    said = process.communicate()[1]
    return process.returncode, said


def inject_signals(
    bench: Bench, place: Path, number: signal.Signals, runs: int, signals: int, chance: random.Random
) -> Iterator[Tally]:
    """End each of several runs several times by a signal, let it finish, and compare."""
    for _ in range(runs):
        run = place / "ended"
        moments = draw_moments(bench.undisturbed, signals, chance)
        ended = [signal_at(bench, run, *moment, number) for moment in moments]
        if number == signal.SIGKILL:
            noticed = injected = sum(status == -number for status, _ in ended)
        else:
            injected = sum(status not in (0, 3) for status, _ in ended)
            noticed = sum(status == 130 and said.strip() == INTERRUPTED for status, said in ended)
        found = finish_and_compare(bench, run)
        where = ", ".join(f"{stage}+{seconds:.1f}s" for stage, seconds in moments)
        yield Tally(number.name, injected, noticed, 0 if found else injected, f"{where}: {found or 'same'}")
        shutil.rmtree(run)


def finish_and_compare(bench: Bench, run: Path, *words: str) -> str:
    """Run to the end; return what is not as in the undisturbed run, '' for nothing."""
    status, said = bench.finish(run, *words)
    return said if status not in (0, 3) else bench.compare(run) or list_left_over(run)


def list_left_over(run: Path) -> str:
    """Return what a run should not have left, '' for nothing."""
    left = [file.name for file in run.rglob("*") if PARTIAL in file.name or "begun" in file.name]
    left += [name for name in (LOCK_FILE,) if (run / name).exists()]
    return f"left over: {left}" if left else ""


def flip_bit(file: Path, chance: random.Random) -> None:
    """Flip a random bit of a file."""
    content = bytearray(file.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    file.write_bytes(content)


def inject_damage(bench: Bench, place: Path, chance: random.Random) -> Iterator[Tally]:
    """Flip a bit in each file of a finished run, folder by folder, and run again."""
    # The records of the stages have neither checksum nor recorded time.
    folders = sorted(path.name for path in bench.undisturbed.iterdir() if path.is_dir() and path.name != "stages")
    for folder in folders:
        run = place / "damaged"
        shutil.copytree(bench.undisturbed, run)
        files = [file for file in sorted((run / folder).rglob("*")) if file.is_file() and file.stat().st_size]
        if folder == "export":  # no stage is held to the verdict
            files = [file for file in files if file.name != "BLESSED"]
        files = [file for file in files if not is_shard(file.name)]
        for file in files:
            flip_bit(file, chance)
        status, said = bench.finish(run)
        named = sum(f"'{file}'" in said for file in files)
        found = said if status not in (0, 3) else bench.compare(run) or list_left_over(run)
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


def inject_full_disks(bench: Bench, place: Path) -> Iterator[Tally]:
    """Run on disks that have room for some of a run, then give them room."""
    if os.geteuid():
        return
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
            found = finish_and_compare(bench, disk / "run")
            survived += not found
            detail = found[-300:] or detail
        (place / "disk").rmdir()
    yield Tally("disk full", len(shares), noticed, survived, detail)


def inject_harmful_images(bench: Bench, place: Path, processes: Sequence[str]) -> Iterator[Tally]:
    """Ingest the images with one among them that harms whatever process decodes it, until the command ends well."""
    (place / "harm").mkdir(exist_ok=True)
    (place / "harm" / "sitecustomize.py").write_text(HARMFUL)
    environment = {**os.environ, "PYTHONPATH": f"{place / 'harm'}{os.pathsep}{ROOT}"}
    data = load_config(Path(bench.config), [*bench.overrides]).data
    images = Path(data.roots[0]) if data.roots else locate_dataset(data.source, Progress(Console(quiet=True)))
    for kind in HARMS:
        run, copy = place / "harmed", place / "images"
        shutil.copytree(images, copy)
        first = min(file for file in copy.rglob("*.[jp]*g"))
        bad = first.with_name(f"bad{first.suffix}")
        bad.write_bytes(first.read_bytes() + kind.encode())
        command = [*COMMAND, bench.config, f"output_dir={run}", *bench.overrides, f"data.path={copy}", *processes]
        started, commands, status = time.perf_counter(), 0, -1
        while status and commands < 4:
            ended = subprocess.run([*command, "--only", "ingest"], cwd=ROOT, env=environment, capture_output=True)
            status, commands = ended.returncode, commands + 1
        seconds = time.perf_counter() - started
        rejects = [json.loads(line) for line in (run / "examples" / "rejects.jsonl").read_text().splitlines()]
        failed = [(row["key"], row["detail"]) for row in rejects if row["reason"] == "failed"]
        noticed = [key for key, _ in failed] == [bad.relative_to(copy).as_posix()]
        counts = json.loads((run / "run.json").read_text())["counts"]
        wanted = json.loads((bench.undisturbed / "run.json").read_text())["counts"]
        survived = noticed and counts["written"] == wanted["written"] and not list_left_over(run)
        fault = f"an image {kind}{', worker processes' if processes else ''}"
        detail = f"commands {commands}, {seconds:.0f} s: {failed[0][1] if failed else ended.stderr[-300:]!r}"
        yield Tally(fault, 1, int(noticed), int(survived), detail)
        shutil.rmtree(run)
        shutil.rmtree(copy)


def inject_second_runs(bench: Bench, place: Path) -> Tally:
    """Start a run into the directory of a running one."""
    run = place / "shared"
    first = bench.start(run)
    while not (run / LOCK_FILE).exists():
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
    parser.add_argument(
        "--faults", nargs="+", help="second kill interrupt damage shards harm processes disk; default all"
    )
    options = parser.parse_args()
    # A shell's background jobs ignore interrupts, and so would all that they start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    chance = random.Random(options.seed)
    tallies: list[Tally] = []

    def show(tally: Tally) -> None:
        tallies.append(tally)
        print(
            f"{tally.fault:36} injected {tally.injected:3}  noticed {tally.noticed:3}  "
            f"survived {tally.survived:3}  {tally.detail}",
            flush=True,
        )
        result = [one._asdict() for one in tallies]
        Path(__file__).with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n")

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        bench = Bench(str(Path(options.config).absolute()), options.overrides, place / "undisturbed")
        started = time.perf_counter()
        status, said = bench.finish(bench.undisturbed)
        if status not in (0, 3):
            raise SystemExit(said)
        print(f"undisturbed run: {time.perf_counter() - started:.1f} s")
        faults: dict[str, Callable[[], Iterable[Tally]]] = {
            "second": lambda: [inject_second_runs(bench, place)],
            "kill": lambda: inject_signals(bench, place, signal.SIGKILL, options.runs, options.kills, chance),
            "interrupt": lambda: inject_signals(bench, place, signal.SIGINT, 1, options.kills, chance),
            "damage": lambda: inject_damage(bench, place, chance),
            "shards": lambda: inject_shard_damage(bench, place, chance),
            "harm": lambda: inject_harmful_images(bench, place, ()),
            "processes": lambda: inject_harmful_images(bench, place, PROCESSES),
            "disk": lambda: inject_full_disks(bench, place),
        }
        for name in options.faults or faults:
            for tally in faults[name]():
                show(tally)
    injected, survived = sum(tally.injected for tally in tallies), sum(tally.survived for tally in tallies)
    print(f"{'all':36} injected {injected:3}  survived {survived:3}  lost {injected - survived}")


if __name__ == "__main__":
    main()
