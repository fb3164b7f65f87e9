import hashlib
import io
import json
import os

import pytest
import tensorflow as tf
from conftest import paint_images
from PIL import Image

from components import features
from components.errors import UserError
from components.features import SPLITS, RunDir
from components.images import list_images
from components.ingest import RejectedImage, check_image, ingest_images
from components.split import assign_shard, assign_split

SHARES = {"train": 0.6, "val": 0.2, "test": 0.2}


@pytest.fixture
def ingest(tmp_path, options, progress):
    def run(root, shards=2, share=0.05, out="run"):
        run_dir = RunDir(tmp_path / out)
        return run_dir, ingest_images(list_images(root), run_dir, shards, SHARES, share, 0, options, progress)

    return run


def read_examples(run):
    """Return {(split, shard file): [tf.Example]}."""
    return {
        file.name: [tf.train.Example.FromString(r.numpy()) for r in tf.data.TFRecordDataset(str(file))]
        for file in sorted(run.examples.glob("*.tfrecord"))
    }


def test_every_image_becomes_the_record_that_the_contract_names(tmp_path, ingest):
    root = paint_images(tmp_path / "data", per_class=10)
    run, outcome = ingest(root)
    assert (outcome.found, outcome.written, outcome.rejected, outcome.duplicates) == (30, 30, 0, 0)
    shards = read_examples(run)
    assert len(shards) == 6
    seen = 0
    for name, records in shards.items():
        keys = []
        for record in records:
            value = {k: (v.bytes_list.value or v.int64_list.value)[0] for k, v in record.features.feature.items()}
            key = value[features.KEY].decode()
            content = (root / key).read_bytes()
            with Image.open(io.BytesIO(content)) as image:
                assert (value[features.WIDTH], value[features.HEIGHT]) == image.size
                assert value[features.FORMAT].decode() == image.format.lower()
            assert value[features.ENCODED] == content
            assert value[features.SHA256].decode() == hashlib.sha256(content).hexdigest()
            assert value[features.TEXT].decode() == key.split("/")[0] == outcome.labels[value[features.LABEL]]
            assert value[features.SOURCE].decode() == "/".join(key.split("/")[1:-1])
            assert name == features.shard_name(assign_split(key, SHARES, 0), assign_shard(key, 2), 2)
            keys.append(key)
        assert keys == sorted(keys)
        seen += len(keys)
    assert seen == 30
    assert run.labels.read_text() == "cyan\nmagenta\nyellow\n"


def test_unusable_files_are_rejected_with_their_reason_and_nothing_is_lost(tmp_path, ingest):
    root = paint_images(tmp_path / "data", per_class=10)
    good = (root / "cyan" / "camera" / "000.jpg").read_bytes()
    bad = {
        "cyan/truncated.jpg": ("corrupt", good[: len(good) // 2]),
        "cyan/empty.jpg": ("empty", b""),
        "cyan/words.jpg": ("not_an_image", b"these are words"),
        "README.txt": ("no_class", b"hello"),
    }
    for key, (_, content) in bad.items():
        (root / key).write_bytes(content)
    (root / "cyan" / "gone.jpg").symlink_to(root / "nowhere")
    os.mkfifo(root / "cyan" / "pipe.jpg")
    run, outcome = ingest(root, share=0.5)
    rows = [json.loads(line) for line in run.rejects.read_text().splitlines()]
    expected = {key: reason for key, (reason, _) in bad.items()} | {
        "cyan/gone.jpg": "unreadable",
        "cyan/pipe.jpg": "unreadable",
    }
    assert {row["key"]: row["reason"] for row in rows} == expected
    assert all(row["detail"] for row in rows)
    assert outcome.found == outcome.written + outcome.rejected == 36


def test_too_many_rejects_stop_the_run_with_the_first_named(tmp_path, ingest):
    root = paint_images(tmp_path / "data", per_class=10)
    for number in range(5):
        (root / "cyan" / f"bad{number}.jpg").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"5 of 35 files .*cyan/bad0.jpg.*max_reject_share=0.05"):
        ingest(root)


def test_two_runs_write_the_same_bytes(tmp_path, ingest):
    root = paint_images(tmp_path / "data", per_class=10)
    first, _ = ingest(root, out="one")
    second, _ = ingest(root, out="two")
    for file in first.examples.iterdir():
        assert file.read_bytes() == (second.examples / file.name).read_bytes()


def test_another_number_of_shards_replaces_the_files(tmp_path, ingest):
    root = paint_images(tmp_path / "data", per_class=10)
    ingest(root, shards=4)
    run, _ = ingest(root, shards=1)
    assert sorted(file.name for file in run.examples.glob("*.tfrecord")) == sorted(
        features.shard_name(split, 0, 1) for split in SPLITS
    )


def test_exact_copies_are_counted(tmp_path, ingest):
    root = paint_images(tmp_path / "data", per_class=10)
    content = (root / "cyan" / "camera" / "000.jpg").read_bytes()
    (root / "cyan" / "copy.jpg").write_bytes(content)
    (root / "yellow" / "copy.jpg").write_bytes(content)
    assert ingest(root)[1].duplicates == 2


def test_an_empty_split_is_an_error_that_names_it(tmp_path, ingest):
    root = paint_images(tmp_path / "data", per_class=1)
    with pytest.raises(UserError, match=r"The \w+ split has no image at all"):
        ingest(root)


def test_a_wrong_suffix_does_not_matter(tmp_path):
    Image.new("RGB", (5, 4)).save(tmp_path / "image", "PNG")
    checked = check_image(str(tmp_path / "image"))
    assert (checked.format, checked.height, checked.width) == ("png", 4, 5)


def test_a_missing_file_is_unreadable(tmp_path):
    with pytest.raises(RejectedImage) as raised:
        check_image(str(tmp_path / "none.jpg"))
    assert raised.value.args[0] == "unreadable"
