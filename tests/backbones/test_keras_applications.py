from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from toys import check_bottlenecks_agree, paint_images, quiet_progress, write_config

from components.backbones.keras_applications import application_module
from components.backbones.prepare import BackboneSession, prepare_backbone
from components.backbones.spec import KERAS, parse_backbone
from components.errors import UserError
from components.run_dir import RunDir
from pipeline.cli import main

SIZE = 64


def prepare(value, folder):
    return prepare_backbone(parse_backbone(value), folder, quiet_progress())


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A small application with saved weights, and the model that they came from."""
    tf.keras.utils.set_random_seed(3)
    model = tf.keras.applications.MobileNetV2(include_top=False, weights=None, input_shape=(SIZE, SIZE, 3))
    path = tmp_path_factory.mktemp("weights") / "mobilenet.h5"
    model.save_weights(path)
    return str(path), model


@pytest.mark.parametrize("name", KERAS)
def test_every_application_has_its_module_and_its_preprocessing(name):
    assert callable(getattr(tf.keras.applications, name))
    assert callable(application_module(name).preprocess_input)


def test_bottlenecks_equal_the_plain_keras_model(weights, tmp_path):
    path, model = weights
    backbone = prepare({"keras": "MobileNetV2", "weights": path, "size": SIZE}, tmp_path)
    assert (backbone.dim, backbone.size) == (1280, SIZE)
    files = sorted(paint_images(tmp_path / "images", 3).rglob("*.*"))
    encoded = [file.read_bytes() for file in files]
    images = [tf.image.resize(tf.io.decode_image(e, 3, expand_animations=False), [SIZE, SIZE]) for e in encoded]
    pixels = tf.keras.applications.mobilenet_v2.preprocess_input(np.stack(images))
    expected = model(pixels, training=False).numpy().mean((1, 2))
    np.testing.assert_allclose(
        BackboneSession(tmp_path / backbone.id).compute_bottlenecks(encoded), expected, atol=1e-5
    )


def test_an_application_with_saved_weights_runs_the_whole_pipeline(weights, toy_config, tmp_path):
    images = paint_images(tmp_path / "images", per_class=12)
    values = {**toy_config, "output_dir": str(tmp_path / "run"), "data": {"path": str(images)}}
    values |= {
        "backbone": {"keras": "MobileNetV2", "weights": weights[0], "size": SIZE, "layer": "block_3_expand_relu"}
    }
    values |= {"evaluate": {"thresholds": {"accuracy": 0.2}}}
    assert main(["run", str(write_config(tmp_path / "c.yaml", **values))]) == 0
    check_bottlenecks_agree(RunDir(tmp_path / "run"), images)


def test_vgg19_at_fc1_runs_the_whole_pipeline(toy_config, tmp_path):
    # Smaller images than its 224 pixels, for at that size its fully connected layer alone weighs 411 MB.
    images = paint_images(tmp_path / "images", per_class=10)
    values = {**toy_config, "output_dir": str(tmp_path / "run"), "data": {"path": str(images)}}
    values |= {"backbone": {"keras": "VGG19", "weights": "none", "layer": "fc1", "size": 64}}
    values |= {"evaluate": {"thresholds": {"accuracy": 0.0}}, "beam": {"shards": 1}}
    assert main(["run", str(write_config(tmp_path / "c.yaml", **values))]) == 0
    assert '"dim": 4096' in (tmp_path / "run" / "run.json").read_text()
    check_bottlenecks_agree(RunDir(tmp_path / "run"), images)


def test_an_id_does_not_depend_on_what_was_built_before(weights, tmp_path):
    value = {"keras": "InceptionV3", "weights": "none", "size": 75}  # its layers are numbered by Keras
    first = prepare(value, tmp_path)
    tf.keras.layers.Conv2D(1, 1)(tf.zeros((1, 2, 2, 3)))
    assert prepare(value, tmp_path).id == first.id


def test_weights_of_another_architecture_are_refused(weights, tmp_path):
    with pytest.raises(UserError, match=r"mobilenet.h5' do not fit DenseNet121"):
        prepare({"keras": "DenseNet121", "weights": weights[0], "size": SIZE}, tmp_path)


def test_a_file_that_holds_no_weights_is_refused(tmp_path):
    (tmp_path / "w.h5").write_text("no weights")
    with pytest.raises(UserError, match=r"w.h5' do not fit MobileNetV2"):
        prepare({"keras": "MobileNetV2", "weights": str(tmp_path / "w.h5"), "size": SIZE}, tmp_path)


def test_an_unknown_layer_is_named_with_the_nearest_and_their_shapes(tmp_path):
    value = {"keras": "MobileNetV2", "weights": "none", "size": SIZE, "layer": "block_3_expand"}
    assert prepare(value, tmp_path).dim == 144
    with pytest.raises(UserError, match=r"no layer 'block_3_expnd'; the nearest are block_3_expand \("):
        prepare({**value, "layer": "block_3_expnd"}, tmp_path)


def test_a_size_that_the_application_cannot_take_is_refused(tmp_path):
    with pytest.raises(UserError, match="InceptionV3 cannot be built at 32x32"):
        prepare({"keras": "InceptionV3", "weights": "none", "size": 32}, tmp_path)


def test_the_classifier_of_an_application_has_its_thousand_classes(tmp_path, monkeypatch, capsys):
    from components.backbones import keras_applications

    construct = keras_applications._construct
    random = lambda spec, size, top: construct(replace(spec, weights="none"), size, top)  # noqa: E731
    monkeypatch.setattr(keras_applications, "_construct", random)
    (image,) = (file for file in paint_images(tmp_path, 1).rglob("*.jpg") if "cyan" in str(file))
    assert main(["classify", str(image), "--backbone", "MobileNetV2", "--top-k", "1000"]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert len(lines) == 1000
    assert sum(float(line.split()[0]) for line in lines) == pytest.approx(1, abs=0.06)  # four decimals each


def test_without_a_network_imagenet_weights_are_asked_for_by_hand(tmp_path, monkeypatch):
    def fail(**settings):
        raise Exception("URL fetch failure on http://weights: None -- offline")

    monkeypatch.setattr(tf.keras.applications, "MobileNetV2", fail)
    with pytest.raises(
        UserError, match=r"Cannot fetch the weights of MobileNetV2 \(URL fetch failure on http://weights"
    ):
        prepare("MobileNetV2", tmp_path)
