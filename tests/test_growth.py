"""A data set that grows: what is appended goes to shards of its own, what lay there is left alone."""

import csv

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from records import compute, read_records
from toys import COLOURS, SHARES, ingest, paint_images, write_config

from components.features import SPLITS
from components.ingest import ingest as stage
from components.run_dir import RunDir
from components.shards import spans as sharding
from components.shards.bottlenecks import read_bottlenecks
from components.shards.names import Shard, index_name, parse_shard, shard_name
from components.shards.records import shard_files
from pipeline.cli import main


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(sharding, "IMAGES_PER_SHARD", 10)
    monkeypatch.setattr(sharding, "ONE_SPAN", 20)


@pytest.fixture
def root(tmp_path):
    return paint_images(tmp_path / "data", per_class=10)


def add_images(root, name, per_class, classes=tuple(COLOURS)):
    random = np.random.default_rng(ord(name))
    for colour in classes:
        (root / colour).mkdir(exist_ok=True)
        for number in range(per_class):
            pixels = random.integers(0, 256, (20, 21, 3), np.uint8)
            Image.fromarray(pixels).save(root / colour / f"{name}{number}.png")


@pytest.fixture
def run(tmp_path):
    return RunDir(tmp_path / "run")


@pytest.fixture
def read(root, run, options):
    """Return a function that ingests root, by default into as many shards as suit it."""
    return lambda shards=None, **rules: ingest(root, run, options, shards, SHARES, **rules)


@pytest.fixture
def extract(run, read, toy_backbone, options, progress):
    """Return a function that ingests and extracts root, and gives (examples, bottlenecks)."""

    def read_and_compute(shards=None):
        examples = read(shards)
        return examples, compute(examples, toy_backbone, run, options, progress)

    return read_and_compute


def state_of(run):
    """Return {path: (inode, time of change, bytes)} of all files of shards."""
    files = [file for file in run.root.rglob("*") if parse_shard(file.name)]
    return {file: (file.stat().st_ino, file.stat().st_mtime_ns, file.read_bytes()) for file in files}


def splits_of(run):
    with open(run.images, newline="") as file:
        return {row["path"]: row["split"] for row in csv.DictReader(file)}


def test_appends_leave_every_file_of_old_spans_and_their_bottlenecks_untouched(root, run, extract, tmp_path, options):
    examples, _ = extract()
    assert examples.shards == [4]
    for name, per_class, spans, rewritten in (
        ("a", 4, [4, 2], {1}),
        ("b", 2, [4, 2, 1], {2}),
        ("c", 1, [4, 2, 1], {2}),  # as all that was appended last fits one shard
    ):
        before, splits = state_of(run), splits_of(run)
        add_images(root, name, per_class)
        examples, bottlenecks = extract()
        assert examples.shards == spans
        assert (examples.work.computed, bottlenecks.work.computed) == (3 * per_class, 3 * per_class)
        after = state_of(run)
        assert len(after) == 7 * sum(spans)  # an index, and three splits of examples and of bottlenecks
        changed = {parse_shard(file.name).span for file in after if after[file] != before.get(file)}
        assert changed == rewritten
        assert before.keys() <= after.keys()
        assert splits.items() <= splits_of(run).items()

    before = state_of(run)
    examples, bottlenecks = extract()
    assert state_of(run) == before
    assert (examples.work.computed, bottlenecks.work.reused, bottlenecks.work.computed) == (0, 51, 0)

    fresh = RunDir(tmp_path / "fresh")
    ingest(root, fresh, options, None, SHARES)
    records, expected = read_records(run), read_records(fresh)
    assert {key: record for key, (_, record) in records.items()} == {key: r for key, (_, r) in expected.items()}
    assert {key: split for key, (split, _) in records.items()} == splits_of(run)
    for split in SPLITS:
        table = read_bottlenecks(shard_files(bottlenecks.folder(run), split, examples.shards), bottlenecks.dim)
        assert {*table.keys} == {key for key, (lies, _) in records.items() if lies == split}


def test_a_new_class_in_the_middle_comes_last_and_moves_no_record(root, run, read):
    read()
    before = state_of(run)
    add_images(root, "a", 12, ("green",))
    examples = read()
    assert examples.labels == ["cyan", "magenta", "yellow", "green"] == run.labels.read_text().splitlines()
    assert before.items() <= state_of(run).items()
    labels = {
        (record["image/class/text"].decode(), record["image/class/label"]) for _, record in read_records(run).values()
    }
    assert labels == {(label, number) for number, label in enumerate(examples.labels)}
    add_images(root, "b", 12, ("blue",))
    assert read().labels[3:] == ["green", "blue"]


def test_an_order_of_classes_that_the_user_gives_holds_whatever_has_to_be_written(root, run, read, tmp_path, options):
    from components.data.listing import list_images

    read()
    add_images(root, "a", 12, ("green",))
    (tmp_path / "labels.txt").write_text("cyan\ngreen\nmagenta\nyellow\n")
    examples = ingest(list_images(str(root), labels_file=str(tmp_path / "labels.txt")), run, options, None, SHARES)
    assert examples.labels == ["cyan", "green", "magenta", "yellow"]
    assert all(
        record["image/class/text"].decode() == examples.labels[record["image/class/label"]]
        for _, record in read_records(run).values()
    )


def test_a_removed_image_changes_its_own_shard_alone(root, run, extract):
    extract()
    add_images(root, "a", 4)
    extract()
    before = state_of(run)
    gone = "cyan/camera/000.jpg"
    (place,) = {
        parse_shard(file.name)
        for file in run.examples.glob("*.tfrecord")
        if any(gone.encode() in record for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator())
    }
    (root / gone).unlink()
    examples, bottlenecks = extract()
    after = state_of(run)
    assert {parse_shard(file.name) for file in after if after[file] != before[file]} == {place}
    assert gone not in read_records(run)
    assert (examples.written, bottlenecks.work.items, bottlenecks.work.computed) == (41, 41, 0)


def test_a_moved_folder_changes_the_indexes_alone(root, run, read, tmp_path, options):
    read()
    before = state_of(run)
    root.rename(tmp_path / "elsewhere")
    again = ingest(tmp_path / "elsewhere", run, options, None, SHARES)
    after = state_of(run)
    assert again.work.computed == 0
    assert {file.name for file in after if after[file] != before[file]} == {index_name(Shard(n, 4)) for n in range(4)}


def test_another_number_of_shards_joins_all_spans_and_computes_nothing(root, run, read, extract):
    extract()
    add_images(root, "a", 4)
    extract()
    before = read_records(run)
    examples, bottlenecks = extract(shards=3)
    assert examples.shards == [3]
    assert (examples.work.computed, bottlenecks.work.reused, bottlenecks.work.computed) == (0, 42, 0)
    assert read_records(run) == before
    assert {parse_shard(file.name).of for file in state_of(run)} == {3}
    add_images(root, "b", 4)
    assert read().shards == [3, 2]


def test_other_limits_read_all_again_but_move_nothing(root, run, read):
    read()
    add_images(root, "a", 4)
    read()
    before = read_records(run)
    examples = read(max_pixels=10_000)
    assert (examples.shards, examples.work.computed) == ([4, 2], 42)
    assert read_records(run) == before


def test_a_killed_append_goes_on_in_the_same_spans(root, read, monkeypatch):
    read()
    add_images(root, "a", 8)

    def fail(*arguments):
        raise SystemError("killed")

    with monkeypatch.context() as patch, pytest.raises(SystemError):
        patch.setattr(stage, "read_index", fail)  # once the shards are written
        read()
    add_images(root, "b", 8)
    with monkeypatch.context() as patch, pytest.raises(Exception, match="killed"):
        patch.setattr(stage.WriteExampleShard, "process", fail)
        read()
    examples = read()
    assert (examples.shards, examples.work.reused, examples.work.computed) == ([4, 4, 4], 54, 24)


def test_a_run_over_grown_data_is_measured_on_all_of_it(tmp_path, root, toy_backbone):
    config = write_config(
        tmp_path / "c.yaml",
        name="grown",
        output_dir=str(tmp_path / "run"),
        data={"path": str(root)},
        backbone=toy_backbone,
        validation={"on_anomaly": "warn"},
        train={"epochs": 3},
    )
    assert main(["run", str(config)]) == 0
    add_images(root, "a", 12, (*COLOURS, "green"))
    assert main(["run", str(config)]) == 0
    run = RunDir(tmp_path / "run")
    splits = splits_of(run)
    with open(run.predictions, newline="") as file:
        predicted = {row["path"]: row["actual"] for row in csv.DictReader(file)}
    assert predicted == {key: key.split("/")[0] for key, split in splits.items() if split == "test"}
    assert (run.examples / shard_name("test", Shard(0, 8, 1))).exists()
    page = (run.report / "index.html").read_text()
    assert all(key in page for key in predicted)
