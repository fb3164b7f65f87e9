import csv
import hashlib
import io
import json
import os
import shutil
import socket
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from records import read_records
from toys import COLOURS, encode_noise, ingest, paint_images, refusal, shared_data

from components import features
from components.data.columns import Words
from components.data.listing import list_images
from components.features import SPLITS
from components.run_dir import RunDir
from components.shards.names import Shard, index_name, shard_name
from components.shards.spans import assign_shard
from components.storage.files import PARTIAL


@pytest.fixture
def run(tmp_path):
    return RunDir(tmp_path / "run")


@pytest.fixture
def root(tmp_path):
    return paint_images(tmp_path / "data", per_class=10)


def read_rejects(run):
    return {row["key"]: row["reason"] for row in map(json.loads, run.rejects.read_text().splitlines())}


def splits_of(run):
    return {key: split for key, (split, _) in read_records(run).items()}


def test_every_image_becomes_the_record_that_the_contract_names(root, run, options):
    outcome = ingest(root, run, options)
    assert (outcome.found, outcome.written, outcome.rejected, outcome.duplicates) == (30, 30, 0, 0)
    assert (outcome.work.items, outcome.work.reused, outcome.work.computed) == (30, 0, 30)
    records = read_records(run)
    assert len(records) == 30
    for key, (split, value) in records.items():
        content = (root / key).read_bytes()
        with Image.open(io.BytesIO(content)) as image:
            assert (value[features.WIDTH], value[features.HEIGHT]) == image.size
            assert value[features.FORMAT].decode() == image.format.lower()
        assert value[features.ENCODED] == content
        assert value[features.SHA256].decode() == hashlib.sha256(content).hexdigest()
        assert value[features.TEXT].decode() == key.split("/")[0] == outcome.labels[value[features.LABEL]]
        assert value[features.SOURCE].decode() == "/".join(key.split("/")[1:-1])
        shard = shard_name(split, Shard(assign_shard(key, 2), 2))
        assert key.encode() in [
            tf.train.Example.FromString(r).features.feature[features.KEY].bytes_list.value[0]
            for r in tf.data.TFRecordDataset(str(run.examples / shard)).as_numpy_iterator()
        ]
    assert run.labels.read_text() == "cyan\nmagenta\nyellow\n"
    per_class = Counter((key.split("/")[0], split) for key, (split, _) in records.items())
    assert {per_class[colour, "train"] for colour in COLOURS} == {5}
    with open(run.images, newline="") as file:
        table = {row["path"]: row for row in csv.DictReader(file)}
    assert {key: row["split"] for key, row in table.items()} == splits_of(run)
    assert {row["rule"] for row in table.values()} == {"0.5/0.25/0.25, seed 0"}


def test_unusable_files_are_rejected_with_their_reason_and_nothing_is_lost(tmp_path, root, run, options):
    good = (root / "cyan" / "camera" / "000.jpg").read_bytes()
    Image.new("L", (300, 300)).save(root / "cyan" / "large.png")
    bad = {
        "cyan/truncated.jpg": ("corrupt", good[: len(good) // 2]),
        "cyan/empty.jpg": ("empty", b""),
        "cyan/words.jpg": ("not_an_image", b"these are words"),
        "cyan/long.jpg": ("too_large", good + bytes(100_000)),
        "README.txt": ("no_class", b"hello"),
    }
    for key, (_, content) in bad.items():
        (root / key).write_bytes(content)
    (root / "cyan" / "gone.jpg").symlink_to(root / "nowhere")
    (root / "cyan" / "loop").symlink_to(root / "cyan")
    os.mkfifo(root / "cyan" / "pipe.jpg")
    plug = socket.socket(socket.AF_UNIX)
    plug.bind(os.path.relpath(root / "cyan" / "plug.jpg"))
    outcome = ingest(root, run, options, max_reject_share=0.5, max_bytes=100_000, max_pixels=80_000)
    plug.close()
    expected = {key: reason for key, (reason, _) in bad.items()} | {
        "cyan/large.png": "too_large",
        "cyan/gone.jpg": "unreadable",
        "cyan/loop": "unreadable",
        "cyan/pipe.jpg": "unreadable",
        "cyan/plug.jpg": "unreadable",
    }
    assert read_rejects(run) == expected
    assert all(json.loads(line)["detail"] for line in run.rejects.read_text().splitlines())
    assert outcome.found == outcome.written + outcome.rejected == 30 + len(expected)


def test_names_that_are_no_text_or_hold_line_breaks_are_kept(root, run, options):
    odd = [os.fsdecode(b"cyan/caf\xe9.png"), "cyan/two\nlines.png", 'cyan/"quoted",comma.png', "cyan/日本.png"]
    for number, key in enumerate(odd):
        Image.new("RGB", (9, 5 + number)).save(os.fsencode(root / key), "PNG")
    outcome = ingest(root, run, options)
    assert outcome.written == 34
    assert set(odd) <= set(read_records(run))
    again = ingest(root, run, options)
    assert (again.work.reused, again.work.computed) == (34, 0)


def test_too_many_rejects_stop_the_run_with_the_first_named(root, run, options):
    for number in range(5):
        (root / "cyan" / f"bad{number}.jpg").write_bytes(b"no image")
    assert (
        "5 of 35 files are not usable images (the first: 'cyan/bad0.jpg', not_an_image, starts with b'no image')"
        in refusal(lambda: ingest(root, run, options))
    )


def test_two_runs_write_the_same_bytes(tmp_path, root, options):
    first, second = RunDir(tmp_path / "one"), RunDir(tmp_path / "two")
    ingest(root, first, options)
    ingest(root, second, options)
    names = {file.name for file in first.examples.iterdir()}
    assert names == {file.name for file in second.examples.iterdir()}
    for name in names:
        assert (first.examples / name).read_bytes() == (second.examples / name).read_bytes()


def test_another_number_of_shards_moves_the_records_and_reads_no_image(root, run, options):
    ingest(root, run, options, shards=4)
    before = read_records(run)
    outcome = ingest(root, run, options, shards=1)
    assert (outcome.work.reused, outcome.work.computed) == (30, 0)
    assert read_records(run) == before
    assert sorted(file.name for file in run.examples.glob("*.tfrecord")) == sorted(
        shard_name(split, Shard(0, 1)) for split in SPLITS
    )
    assert len(list(run.examples.glob("files-*"))) == 1


def test_added_images_alone_are_read_and_none_moves(root, run, options):
    ingest(root, run, options)
    before = splits_of(run)
    for number in range(4):
        for colour in COLOURS:
            Image.new("RGB", (20, 20 + number), colour).save(root / colour / f"new{number}.png")
    outcome = ingest(root, run, options)
    assert (outcome.work.reused, outcome.work.computed) == (30, 12)
    after = splits_of(run)
    assert len(after) == 42
    assert {key: after[key] for key in before} == before


def test_removed_images_leave_shards_counts_and_index(root, run, options):
    ingest(root, run, options)
    gone = sorted(file for file in root.rglob("*.*") if file.is_file())[::7]
    for file in gone:
        file.unlink()
    outcome = ingest(root, run, options)
    assert (outcome.written, outcome.work.computed) == (30 - len(gone), 0)
    assert set(read_records(run)) == {str(f.relative_to(root)) for f in root.rglob("*.*") if f.is_file()}


def test_a_new_class_changes_the_labels_of_the_others_without_reading_them(root, run, options):
    ingest(root, run, options)
    before = splits_of(run)
    (root / "green").mkdir()
    for number in range(5):
        Image.new("RGB", (20, 20 + number), "green").save(root / "green" / f"{number}.png")
    outcome = ingest(root, run, options)
    assert outcome.labels == ["cyan", "green", "magenta", "yellow"]
    assert (outcome.work.reused, outcome.work.computed) == (30, 5)
    records = read_records(run)
    assert all(outcome.labels[value[features.LABEL]] == key.split("/")[0] for key, (_, value) in records.items())
    assert {key: split for key, (split, _) in records.items() if key in before} == before


def test_a_changed_image_is_read_again_and_a_renamed_one_keeps_its_split(root, run, options):
    ingest(root, run, options)
    before = splits_of(run)
    Image.new("RGB", (33, 44)).save(root / "cyan" / "camera" / "000.jpg")
    (root / "cyan" / "phone" / "001.png").rename(root / "cyan" / "renamed.png")
    outcome = ingest(root, run, options)
    assert (outcome.work.reused, outcome.work.computed) == (28, 2)
    after = read_records(run)
    assert after["cyan/camera/000.jpg"][1][features.HEIGHT] == 44
    assert after["cyan/renamed.png"][0] == before["cyan/phone/001.png"]


def test_splits_do_not_change_when_the_folder_moves(tmp_path, root, options):
    first, second = RunDir(tmp_path / "one"), RunDir(tmp_path / "two")
    ingest(root, first, options)
    shutil.copytree(root, tmp_path / "elsewhere" / "deep")
    ingest(tmp_path / "elsewhere" / "deep", second, options)
    assert splits_of(first) == splits_of(second)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "removed"])
def test_a_damaged_shard_is_noticed_and_only_what_is_lost_is_read_again(root, run, options, damage):
    ingest(root, run, options)
    before = read_records(run)
    shard = run.examples / shard_name("train", Shard(1, 2))
    content = bytearray(shard.read_bytes())
    if damage == "removed":
        shard.unlink()
    elif damage == "truncated":
        shard.write_bytes(content[: len(content) // 2])
    else:
        content[len(content) // 2] ^= 4
        shard.write_bytes(content)
        # An index with this size would be trusted.
        (run.examples / index_name(Shard(1, 2))).unlink()
    outcome = ingest(root, run, options)
    assert outcome.written == 30
    assert read_records(run) == before


def test_a_killed_ingest_leaves_what_it_has_read(root, run, options, monkeypatch):
    from components.ingest import write_shards

    serialize, calls = write_shards.serialize_labelled, []

    def fail_late(record, row):
        calls.append(row)
        if len(calls) > 20:
            raise SystemError("killed")
        return serialize(record, row)

    monkeypatch.setattr(write_shards, "serialize_labelled", fail_late)
    with pytest.raises(Exception, match="killed"):
        ingest(root, run, options, shards=4)
    monkeypatch.undo()
    outcome = ingest(root, run, options, shards=4)
    assert outcome.work.reused > 0
    assert outcome.written == 30
    other = RunDir(run.root.parent / "undisturbed")
    ingest(root, other, options, shards=4)
    assert read_records(run) == read_records(other)
    assert not list(run.examples.glob(f"*{PARTIAL}"))


def test_copies_inside_a_class_are_dropped_kept_or_refused(tmp_path, root, options):
    content = (root / "cyan" / "camera" / "000.jpg").read_bytes()
    for number in range(3):
        (root / "cyan" / f"copy{number}.jpg").write_bytes(content)
    dropping, keeping, failing = (RunDir(tmp_path / name) for name in ("drop", "keep", "fail"))
    outcome = ingest(root, dropping, options)
    assert (outcome.found, outcome.written, outcome.rejected, outcome.duplicates) == (33, 30, 3, 3)
    assert read_rejects(dropping) == {f"cyan/copy{number}.jpg": "duplicate" for number in range(3)}
    outcome = ingest(root, keeping, options, duplicates="keep")
    assert (outcome.written, outcome.duplicates) == (33, 3)
    splits = splits_of(keeping)
    assert len({splits[key] for key in splits if "copy" in key or key == "cyan/camera/000.jpg"}) == 1
    assert "data.duplicates is fail" in refusal(lambda: ingest(root, failing, options, duplicates="fail"))


def test_a_policy_changed_to_keep_brings_the_copies_back(root, run, options):
    (root / "cyan" / "copy.jpg").write_bytes((root / "cyan" / "camera" / "000.jpg").read_bytes())
    assert ingest(root, run, options).written == 30
    assert ingest(root, run, options, duplicates="keep").written == 31
    assert ingest(root, run, options).written == 30


def test_one_image_in_two_classes_is_a_conflict_that_stays_in_one_split(root, run, options):
    (root / "yellow" / "same.jpg").write_bytes((root / "cyan" / "camera" / "000.jpg").read_bytes())
    outcome = ingest(root, run, options)
    assert (outcome.written, outcome.label_conflicts) == (31, 1)
    assert any("'yellow/same.jpg'" in warning and "another class" in warning for warning in outcome.warnings)
    splits = splits_of(run)
    assert splits["yellow/same.jpg"] == splits["cyan/camera/000.jpg"]
    assert "label_conflicts is fail" in refusal(lambda: ingest(root, run, options, label_conflicts="fail"))


def test_ready_made_splits_are_kept_and_a_leak_between_them_is_closed(tmp_path, run, options):
    for seed, split in enumerate(("train", "valid", "test")):
        paint_images(tmp_path / "data" / split, per_class=4, seed=seed)
    leaked = (tmp_path / "data" / "test" / "cyan" / "camera" / "000.jpg").read_bytes()
    (tmp_path / "data" / "train" / "cyan" / "leak.jpg").write_bytes(leaked)
    outcome = ingest(tmp_path / "data", run, options)
    splits = splits_of(run)
    assert {(key.split("/")[0], split) for key, split in splits.items()} == {
        ("train", "train"),
        ("valid", "val"),
        ("test", "test"),
    }
    assert read_rejects(run) == {"train/cyan/leak.jpg": "duplicate"}
    assert any("train/cyan/leak.jpg" in warning for warning in outcome.warnings)


def test_exact_counts_per_class(root, run, options):
    ingest(root, run, options, train_per_class=7)
    counts = Counter((key.split("/")[0], split) for key, split in splits_of(run).items())
    assert {counts[colour, "train"] for colour in COLOURS} == {7}


def test_counts_where_the_layout_fixes_the_splits_are_refused(tmp_path, run, options):
    for seed, split in enumerate(("train", "val", "test")):
        paint_images(tmp_path / "data" / split, per_class=4, seed=seed)
    assert "train_per_class is 2" in refusal(lambda: ingest(tmp_path / "data", run, options, train_per_class=2))


def test_what_tensorflow_does_not_read_is_stored_as_png_and_said(root, run, options):
    pixels = np.random.default_rng(0).integers(0, 256, (12, 17, 3), np.uint8)
    Image.fromarray(pixels).save(root / "cyan" / "x.webp", lossless=True)
    Image.fromarray(pixels[::-1]).save(root / "cyan" / "x.tiff")
    outcome = ingest(root, run, options)
    records = read_records(run)
    for key, expected in (("cyan/x.webp", pixels), ("cyan/x.tiff", pixels[::-1])):
        value = records[key][1]
        assert value[features.FORMAT] == b"png"
        assert (tf.io.decode_image(value[features.ENCODED], channels=3).numpy() == expected).all()
    assert any("stored as PNG" in warning for warning in outcome.warnings)


def test_records_of_a_ready_made_set_are_taken_as_they_are(tmp_path, root, run, options):
    first = RunDir(tmp_path / "first")
    ingest(root, first, options)
    before = {value[features.ENCODED]: value[features.TEXT] for _, value in read_records(first).values()}
    made = tmp_path / "made"
    made.mkdir()
    for file in first.examples.glob("*.tfrecord"):
        shutil.copy(file, made)
    ingest(made, run, options)
    records = read_records(run)
    assert {value[features.ENCODED]: value[features.TEXT] for _, value in records.values()} == before
    assert all(key.split("-")[0] == split for key, (split, _) in records.items())


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ({"a": 2, "b": 2, "c": 1}, "a class of 3 images can have one in each of train, val, test"),
        ({"a": 2, "b": 1}, "but the largest, 'a', has 2"),
        ({"a/g_nohash_": 3, "b": 1}, "but the largest, 'a', has 1"),
        ({"train/a": 1, "train/b": 1, "test/a": 4}, "a class of 2 images can have one in each of train, val"),
    ],
)
def test_an_empty_split_is_an_error_that_says_what_it_needs(tmp_path, run, options, images, words):
    contents = iter(encode_noise(sum(images.values())))
    for stem, count in images.items():
        for number in range(count):
            path = tmp_path / "data" / (f"{stem}{number}.png" if stem.endswith("_") else f"{stem}/{number}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(next(contents))
    message = refusal(lambda: ingest(tmp_path / "data", run, options))
    assert "split has no image at all" in message and words in message


def test_a_split_to_which_the_data_gives_no_image_is_an_error_that_says_so(tmp_path, run, options):
    rows = ["path,label,split"]
    for number, content in enumerate(encode_noise(8)):
        (tmp_path / f"{number}.png").write_bytes(content)
        rows.append(f"{number}.png,{'ab'[number % 2]},{'train' if number < 4 else 'test'}")
    (tmp_path / "list.csv").write_text("\n".join(rows))
    message = refusal(lambda: ingest(tmp_path / "list.csv", run, options))
    assert "The val split has no image at all, and the data fixes the splits of all others" in message


def test_the_outcome_counts_the_images_of_each_class(root, run, options):
    (root / "cyan" / "bad.jpg").write_bytes(b"no image")
    outcome = ingest(root, run, options, max_reject_share=1)
    with open(run.images, newline="") as file:
        assert outcome.images == Counter(row["label"] for row in csv.DictReader(file))
    assert [*outcome.images] == outcome.labels and sum(outcome.images.values()) == outcome.written


def test_what_the_listing_notes_is_told(root, run, options):
    listing = list_images(str(root), ["drafts"])
    assert ingest(listing, run, options).warnings == list(listing.notes) != []


def test_a_class_without_a_usable_image_is_an_error_that_names_it(root, run, options):
    (root / "green").mkdir()
    (root / "green" / "x.jpg").write_bytes(b"no image")
    assert "Class 'green' has no readable image" in refusal(lambda: ingest(root, run, options))


def test_an_image_that_changes_while_it_is_read_is_named(root, run, options, monkeypatch):
    from components.ingest import ingest as stage

    write_rows, calls = stage.write_rows, []

    def write_and_change(*arguments):
        written = write_rows(*arguments)
        calls.append(1)
        if len(calls) > 1:
            splits = Words.collect(["other", *written.splits][:-1])
            written = replace(written, splits=splits)
        return written

    (root / "cyan" / "bad.jpg").write_bytes(b"no image")
    (root / "cyan" / "copy.jpg").write_bytes((root / "cyan" / "camera" / "000.jpg").read_bytes())
    monkeypatch.setattr(stage, "write_rows", write_and_change)
    assert "changed while it was being read" in refusal(lambda: ingest(root, run, options))


def test_caltech_101_is_written_whole(run, options):
    outcome = ingest(Path(shared_data("caltech101")), run, options, shards=8)
    assert (outcome.found, len(outcome.labels)) == (9145, 102)
    assert outcome.found == outcome.written + outcome.rejected
    assert set(read_rejects(run).values()) <= {"duplicate"}
    with open(run.images, newline="") as file:
        rows = {row["path"]: row for row in csv.DictReader(file)}
    assert rows["BACKGROUND_Google/tmp"]["format"] == "jpeg"
    counts = Counter((row["label"], row["split"]) for row in rows.values())
    assert all(counts[text, split] for text in outcome.labels for split in SPLITS)


def test_the_photo_under_roses_and_tulips_is_reported(run, options):
    outcome = ingest(Path(shared_data("flowers_sample")), run, options)
    assert outcome.label_conflicts == 1
    with open(run.duplicates, newline="") as file:
        (row,) = (row for row in csv.DictReader(file) if row["kind"] == "label_conflict")
    assert {row["key"], row["copy_of"]} == {f"{text}/15922772266_1167a06620.jpg" for text in ("roses", "tulips")}
