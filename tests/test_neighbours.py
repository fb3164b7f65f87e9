import shutil

import numpy as np
import tensorflow as tf
from PIL import Image

from components import neighbours
from components.backbone import BackboneSession, read_backbone
from components.export import list_versions
from components.neighbours import find_offsets, load_training_images
from components.shards import read_bottlenecks


def test_the_nearest_are_those_of_the_largest_cosine_with_their_own_pictures(toy_run, toy_config, tmp_path):
    training = load_training_images(list_versions(toy_run.exports)[-1])
    (folder,) = toy_run.backbones.iterdir()
    backbone = read_backbone(folder)
    files = sorted(map(str, toy_run.bottlenecks(backbone.id).glob("train-*.tfrecord")))
    table = read_bottlenecks(files, backbone.dim)
    buffer = tmp_path / "query.png"
    Image.fromarray(np.random.default_rng(3).integers(0, 255, (40, 30, 3)).astype(np.uint8)).save(buffer)
    query = BackboneSession(folder).compute_bottlenecks([buffer.read_bytes()])[0].astype(np.float64)
    vectors = table.vectors.astype(np.float64)
    cosines = vectors @ query / np.linalg.norm(vectors, axis=1) / np.linalg.norm(query)
    found = training.find_nearest(buffer.read_bytes())
    np.testing.assert_allclose([one.cosine for one in found], np.sort(cosines)[::-1][:5], atol=2e-3)  # float16
    assert all(one.picture.startswith("data:image/jpeg;base64,") for one in found)


def test_a_training_image_is_its_own_nearest_with_its_label_and_place(toy_run):
    training = load_training_images(list_versions(toy_run.exports)[-1])
    for row in (0, len(training.labels) - 1):
        file, offset = training.places[row]
        encoded = neighbours.read_record(file, offset)
        nearest = training.find_nearest(encoded)[0]
        assert nearest.cosine > 0.999
        assert nearest.label == training.labels[row]


def test_no_more_vectors_are_kept_than_the_limit(toy_run, monkeypatch):
    monkeypatch.setattr(neighbours, "MOST_VECTORS", 7)
    training = load_training_images(list_versions(toy_run.exports)[-1])
    assert len(training.directions) == len(training.labels) == len(training.places) == 7


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
