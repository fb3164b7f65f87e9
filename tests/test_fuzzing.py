"""A short run of benchmarks/fuzzing.py over every target, and whether it would notice what it looks for."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import fuzzing  # noqa: E402

INPUTS = 150

# A target for each kind of finding, in input 1 of 3.
BAD_TARGETS = """
import contextlib, os, sys, time
sys.path.insert(0, {benchmarks!r})
import fuzz_targets

def bad(finding):
    @contextlib.contextmanager
    def target(folder):
        turns = iter(["warm", 0, 1, 2])
        first = int(sys.argv[2])
        def take(dice):
            turn = next(turns)
            if turn != "warm" and first + turn == 1:
                finding(folder)
            return True
        yield take
    return target

def fail(folder):
    raise ValueError("unexpected")

fuzz_targets.TARGETS = dict(
    crash=bad(lambda folder: os.abort()),
    hang=bad(lambda folder: time.sleep(60)),
    error=bad(fail),
    inside=bad(lambda folder: (folder / "a").write_text("")),
    write=bad(lambda folder: open("../outside/stray", "w").close()),
    read=bad(lambda folder: open("../outside/decoy").read()),
    remove=bad(lambda folder: os.remove("decoy")),
    start=bad(lambda folder: os.system("true")),
)
target, first, end, seed, folder = sys.argv[1:]
fuzz_targets.run_inputs(target, int(first), int(end), int(seed), fuzz_targets.Path(folder))
"""


@pytest.mark.parametrize(
    ("target", "counts"),
    [
        ("crash", {"crashes": 1, "accepted": 2}),
        ("hang", {"hangs": 1, "accepted": 2}),
        ("error", {"unexpected": 1, "accepted": 2}),
        ("inside", {"accepted": 3}),
        ("write", {"stray": 2, "accepted": 3}),  # by the event and by the listing
        ("read", {"stray": 1, "accepted": 3}),
        ("remove", {"stray": 2, "accepted": 3}),
        ("start", {"stray": 1, "accepted": 3}),
    ],
)
def test_what_is_looked_for_is_found_and_the_other_inputs_are_run(tmp_path, monkeypatch, target, counts):
    script = tmp_path / "bad_targets.py"
    script.write_text(BAD_TARGETS.format(benchmarks=str(BENCHMARKS)))
    monkeypatch.setattr(fuzzing, "SCRIPT", script)
    monkeypatch.setattr(fuzzing, "HANG_SECONDS", 2)
    outcome = fuzzing.fuzz_part(target, 0, 3, 0)
    kinds = ("accepted", "refused", "crashes", "hangs", "unexpected", "stray")
    assert {kind: getattr(outcome, kind) for kind in kinds if getattr(outcome, kind)} == counts
    assert outcome.inputs == 3
    assert bool(outcome.findings) == (target != "inside")


def test_hostile_inputs_are_taken_or_refused_and_touch_nothing(tmp_path):
    result = tmp_path / "fuzzing.json"
    command = [sys.executable, BENCHMARKS / "fuzzing.py", "--inputs", str(INPUTS), "--seed", "1", "--json", result]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    outcomes = json.loads(result.read_text())
    assert list(outcomes) == list(fuzzing.TARGETS)
    for outcome in outcomes.values():
        assert outcome["inputs"] == outcome["accepted"] + outcome["refused"] == INPUTS
        assert outcome["accepted"] and outcome["refused"]
