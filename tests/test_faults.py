"""Faults on the way: killed, interrupted, out of room, images that change, hang or crash, bits that flip."""

import csv
import json
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from toys import ingest, paint_images, refusal, write_config

from components.export.versions import list_versions, read_facts
from components.ingest import isolated_reader, placement, read_images, write_shards
from components.ingest.write_shards import in_progress_marker
from components.predict.predict import load_export
from components.rejects import FAILED, UNREADABLE
from components.run_dir import RunDir
from components.shards.names import Shard, is_shard
from components.storage.files import PARTIAL
from components.storage.ownership import MARK
from pipeline.cli import main
from pipeline.run_lock import LOCK_FILE

ROOT = Path(__file__).parents[1]


def read_results(run):
    """Return what has to be the same in two runs, by path; predictions as floats, as they vary in the last digits."""
    results = {}
    for file in sorted(file for file in run.root.rglob("*") if file.is_file()):
        name = file.relative_to(run.root).as_posix()
        if name.startswith("export/"):
            name = f"export/version/{name.split('/', 2)[2]}"
        if file.suffix in (".csv", ".txt", ".jsonl", ".pbtxt") or is_shard(file.name):
            results[name] = file.read_bytes()
        else:
            results.setdefault(name, None)
    results["predictions"] = [
        [float(value) if value[:1].isdigit() and "." in value[:2] else value for value in row.values()]
        for row in csv.DictReader(run.predictions.open(newline=""))
    ]
    record = json.loads(run.record.read_text())
    results["record"] = [record[key] for key in ("backbone", "counts", "blessed", "reasons")]
    return results


def check_same(run, other):
    """Assert that two run directories hold the same results and files."""
    found, wanted = read_results(run), read_results(other)
    for results in (found, wanted):
        rows = results.pop("predictions")
        results["numbers"] = [[value for value in row if isinstance(value, float)] for row in rows]
        results["texts"] = [[value for value in row if isinstance(value, str)] for row in rows]
        for name in [*results]:
            if name.endswith(("predictions.csv", "mistakes.csv")):
                results[name] = None
            elif "tfevents" in name:  # named by second and process
                del results[name]
    np.testing.assert_allclose(found.pop("numbers"), wanted.pop("numbers"), atol=1e-5)
    assert sorted(found) == sorted(wanted)
    assert [name for name in wanted if found[name] != wanted[name]] == []


def flip(file, at=None):
    """Write a file with a bit flipped in its middle, or at a place."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2 if at is None else at] ^= 4
    file.write_bytes(content)


@pytest.fixture
def copied(toy_run, toy_config, tmp_path):
    """A copy of the finished toy run, and the path of its config."""
    shutil.copytree(toy_run.root, tmp_path / "run")
    return RunDir(tmp_path / "run"), write_config(
        tmp_path / "c.yaml", **{**toy_config, "output_dir": str(tmp_path / "run")}
    )


def start(config):
    """Start a run in a process of its own."""
    command = [sys.executable, "-m", "pipeline.cli", "run", str(config)]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        # A shell's background jobs, this one's parent perhaps among them, ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_for(root, pattern, process):
    """Wait until a file of a pattern is there; the process must not end before."""
    while not list(root.glob(pattern)):
        assert process.poll() is None
        time.sleep(0.01)


def test_a_run_that_is_killed_and_interrupted_ends_as_one_that_is_not(toy_run, toy_config, tmp_path):
    run = RunDir(tmp_path / "run")
    config = write_config(tmp_path / "c.yaml", **{**toy_config, "output_dir": str(run.root)})
    for pattern, number in (
        ("examples/.topgraft-begun-*", signal.SIGKILL),
        (f"bottlenecks/*/*{PARTIAL}", signal.SIGKILL),
        (f"model{PARTIAL}", signal.SIGINT),
        ("export/*/model_card.json", signal.SIGKILL),
    ):
        process = start(config)
        wait_for(run.root, pattern, process)
        process.send_signal(number)
        message = process.communicate()[1]
        assert process.returncode == (130 if number == signal.SIGINT else -signal.SIGKILL)
        if number == signal.SIGINT:
            assert message == "topgraft: interrupted; the same command continues where it stopped.\n"
            assert not (run.root / LOCK_FILE).exists()
    assert main(["run", str(config)]) == 0
    check_same(run, toy_run)


def test_a_change_of_any_file_of_a_finished_run_is_noticed_and_mended(copied, toy_run, capsys):
    run, config = copied
    (version,) = list_versions(run.exports)
    # Of a shard, what reads it compares checksums; no run reads the verdict in an export but that which comes after it.
    # The card goes with its export.
    unwatched = {run.record, version / "BLESSED", version / "test_predictions.csv", version / "model_card.json"}
    # A damaged mark is an error: without it nobody knows which files a run may replace.
    files = [file for file in run.root.rglob("*") if file.is_file() and file not in unwatched and file.name != MARK]
    files = [file for file in files if file.stat().st_size and not is_shard(file.name) and file.parent != run.stages]
    assert len(files) > 30
    for file in files:
        flip(file)
    assert main(["run", str(config)]) == 0
    said = capsys.readouterr().err
    assert [file for file in files if f"'{file}' has changed and is computed again" not in said] == []
    assert not version.exists() and len(list_versions(run.exports)) == 1
    check_same(run, toy_run)


@pytest.mark.parametrize("name", ["use_cases", "classes"])
def test_a_changed_card_of_a_finished_run_has_the_model_exported_anew(copied, capsys, name):
    run, config = copied
    (version,) = list_versions(run.exports)
    card, facts = version / "model_card.json", read_facts(version)
    flip(card, card.read_bytes().index(name.encode()))
    assert main(["run", str(config)]) == 0
    assert f"'{card}' was damaged" in capsys.readouterr().err
    (anew,) = list_versions(run.exports)
    assert anew != version and read_facts(anew) == facts


@pytest.mark.parametrize("harm", ["flip", "truncate", "remove"])
def test_a_damaged_export_is_refused_file_by_file(copied, harm):
    run, _ = copied
    (version,) = list_versions(run.exports)
    apart = ("BLESSED", "test_predictions.csv", "model_card.json", MARK)
    files = [file for file in version.rglob("*") if file.is_file() and file.name not in apart]
    assert {"saved_model.pb", "labels.txt", "variables.index", "checksums.json"} <= {file.name for file in files}
    for file in files:
        healthy = file.read_bytes()
        if harm == "flip":
            flip(file)
        elif harm == "truncate":
            file.write_bytes(healthy[:-1])
        elif file.name in ("saved_model.pb", "checksums.json"):
            continue  # no export at all; an export of former versions has no sums
        else:
            file.unlink()
        message = refusal(load_export, version)
        assert "is damaged" in message
        # A checksum that differs names the file that it is of.
        assert file.name in message or file.name == "checksums.json"
        file.write_bytes(healthy)
    assert load_export(version).labels == ["cyan", "magenta", "yellow"]


def test_a_baseline_that_is_damaged_is_named_and_not_compared_with(copied, capsys):
    run, config = copied
    (version,) = list_versions(run.exports)
    flip(version / "variables" / "variables.data-00000-of-00001")
    (run.stages / "export.json").unlink()
    assert main(["run", str(config)]) == 2
    said = capsys.readouterr().err
    assert f"The export '{version}', the baseline of the new model, is damaged" in said
    shutil.rmtree(version)
    assert main(["run", str(config)]) == 0


def test_a_run_out_of_room_says_so_leaves_nothing_and_goes_on(toy_config, toy_run, tmp_path, capsys, caplog):
    run = RunDir(tmp_path / "run")
    config = write_config(tmp_path / "c.yaml", **{**toy_config, "output_dir": str(run.root)})
    largest = max(file.stat().st_size for file in toy_run.examples.glob("*.tfrecord"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest - 1, hard))
    try:
        assert main(["run", str(config)]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    (said,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("topgraft: ")]
    assert "cannot be written (file too large)" in said
    assert [record for record in caplog.records if record.exc_info] == []  # no library prints a traceback before it
    assert [file.name for file in run.root.rglob("*") if file.name.endswith(PARTIAL) and "plan" not in file.name] == []
    assert main(["run", str(config), "--only", "ingest"]) == 0
    for file in toy_run.examples.iterdir():
        assert (run.examples / file.name).read_bytes() == file.read_bytes()
    assert {file.name for file in run.examples.iterdir()} == {file.name for file in toy_run.examples.iterdir()}


@pytest.fixture
def images(tmp_path):
    return paint_images(tmp_path / "images", per_class=10)


@pytest.fixture
def run(tmp_path):
    return RunDir(tmp_path / "run")


def rejects_of(run):
    return {row["key"]: (row["reason"], row["detail"]) for row in map(json.loads, run.rejects.read_text().splitlines())}


def shards_of(run):
    return {file.name: file.read_bytes() for file in sorted(run.examples.glob("*.tfrecord"))}


def test_an_image_that_changes_while_it_is_read_is_rejected_and_read_by_the_next_run(images, run, options, monkeypatch):
    read_file, key = read_images.read_file, "cyan/camera/000.jpg"

    def read_and_change(path, limits):
        content = read_file(path, limits)
        if path.endswith(key):
            (images / key).write_bytes((images / "cyan/camera/006.gif").read_bytes() + b"changed")
        return content

    monkeypatch.setattr(read_images, "read_file", read_and_change)
    assert ingest(images, run, options).rejected == 1
    reason, detail = rejects_of(run)[key]
    assert reason == UNREADABLE and "changed while the run read it" in detail
    monkeypatch.undo()
    outcome = ingest(images, run, options)
    assert (outcome.rejected, outcome.work.computed) == (0, 1)


def test_a_run_directory_that_vanishes_before_or_while_shards_are_written_is_noticed(
    images, tmp_path, run, options, monkeypatch
):
    ingest(images, RunDir(tmp_path / "undisturbed"), options)

    def vanish(then):
        def do(*arguments):
            shutil.rmtree(run.root)
            return then(*arguments)

        return do

    monkeypatch.setattr(placement, "read_known", vanish(placement.read_known))
    ingest(images, run, options)
    assert shards_of(run) == shards_of(RunDir(tmp_path / "undisturbed"))
    monkeypatch.undo()
    monkeypatch.setattr(write_shards, "write_index", vanish(write_shards.write_index))
    (images / "cyan" / "new.png").write_bytes((images / "cyan" / "phone" / "001.png").read_bytes() + b"more")
    assert "Shards vanished" in refusal(lambda: ingest(images, run, options))
    monkeypatch.undo()
    (images / "cyan" / "new.png").unlink()
    assert "that Topgraft did not write" in refusal(lambda: ingest(images, run, options))  # the mark is gone too
    shutil.rmtree(run.root)
    ingest(images, run, options)
    assert shards_of(run) == shards_of(RunDir(tmp_path / "undisturbed"))


def test_a_thread_that_hangs_or_raises_on_an_image_loses_nothing(images, tmp_path, run, options, monkeypatch):
    """A child process reads them instead."""
    ingest(images, RunDir(tmp_path / "undisturbed"), options)
    ended = threading.Event()

    def read(files, limits):
        if any("000" in file.key for file in files):
            raise SystemError("a decoder's")
        if any("007" in file.key for file in files):
            ended.wait()
        return read_images.read_images(files, limits)

    monkeypatch.setattr(write_shards, "BATCH", 3)
    monkeypatch.setattr(write_shards, "BATCH_SECONDS", 1)
    monkeypatch.setattr(write_shards, "read_images", read)
    outcome = ingest(images, run, options)
    ended.set()
    assert (outcome.written, outcome.rejected) == (30, 0)
    assert shards_of(run) == shards_of(RunDir(tmp_path / "undisturbed"))


def test_an_image_that_the_child_does_not_survive_either_is_rejected(images, run, options, monkeypatch):
    """A marker exists because the first writer of the shard was killed."""
    (images / "cyan" / "killed.png").write_bytes((images / "cyan" / "phone" / "001.png").read_bytes() + b"more")
    monkeypatch.setattr(isolated_reader, "CHILD", "poisoned_child")
    run.examples.mkdir(parents=True)
    in_progress_marker(run.examples, Shard(0, 1)).touch()
    in_progress_marker(run.examples, Shard(1, 2)).touch()
    outcome = ingest(images, run, options, shards=1)
    assert (outcome.written, outcome.rejected) == (30, 1)
    assert rejects_of(run) == {"cyan/killed.png": (FAILED, "the process that decoded it was killed by SIGKILL")}
    assert list(run.examples.glob("*begun*")) == []
