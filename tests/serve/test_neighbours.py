import shutil
from pathlib import Path

import numpy as np
import tensorflow as tf

from components.data.tf_examples import find_offsets
from components.export.versions import list_versions
from components.serve import neighbours
from components.serve.neighbours import load_training_images
from components.storage.tables import read_csv


def test_a_test_image_has_the_neighbours_that_the_audit_names(toy_run, toy_config):
    training = load_training_images(list_versions(toy_run.exports)[-1])
    named = {}
    for row in read_csv(toy_run.audit / "nearest.csv"):
        named.setdefault(row["path"], []).append((row["nearest_path"], row["nearest_label"], float(row["cosine"])))
    assert len(named) > 30
    for path, rows in named.items():
        found = training.find_nearest((Path(toy_config["data"]["path"]) / path).read_bytes())
        assert [(one.path, one.label) for one in found[: len(rows)]] == [row[:2] for row in rows]
        np.testing.assert_allclose([one.cosine for one in found[: len(rows)]], [row[2] for row in rows], atol=1e-3)
        assert all(one.picture.startswith("data:image/jpeg;base64,") for one in found)


def test_a_training_image_is_its_own_nearest_with_its_label_and_place(toy_run):
    training = load_training_images(list_versions(toy_run.exports)[-1])
    for key, label, file, offset in (training.images[0], training.images[-1]):
        nearest = training.find_nearest(neighbours.read_record(file, offset))[0]
        assert nearest.cosine > 0.999
        assert (nearest.path, nearest.label) == (key, label)


def test_no_more_vectors_are_kept_than_the_limit(toy_run, monkeypatch):
    monkeypatch.setattr(neighbours, "MOST_VECTORS", 7)
    training = load_training_images(list_versions(toy_run.exports)[-1])
    assert len(training.directions) == len(training.images) == 7


def test_without_the_run_around_it_an_export_has_no_training_images(toy_run, tmp_path):
    copy = shutil.copytree(list_versions(toy_run.exports)[-1], tmp_path / "export" / "1")
    assert load_training_images(copy) is None


def test_a_damaged_run_has_no_training_images(toy_run, tmp_path):
    run = shutil.copytree(toy_run.root, tmp_path / "run")
    file = next((run / "bottlenecks").glob("*/train-*"))
    file.write_bytes(file.read_bytes()[:-20])
    assert load_training_images(list_versions(run / "export")[-1]) is None


def test_offsets_are_where_records_begin(tmp_path):
    contents = [b"", b"one", b"x" * 1000]
    path = str(tmp_path / "some.tfrecord")
    with tf.io.TFRecordWriter(path) as writer:
        for content in contents:
            writer.write(content)
    offsets = find_offsets(tmp_path / "some.tfrecord")
    assert offsets == [0, 16, 35]
