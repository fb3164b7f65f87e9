import tarfile

import numpy as np
import pytest
import tensorflow as tf
from toys import add_toy_network, check_bottlenecks_agree, paint_images, quiet_progress, write_config

from components.backbones.prepare import BackboneSession, prepare_backbone
from components.backbones.spec import parse_backbone
from components.errors import UserError
from components.run_dir import RunDir
from pipeline.cli import main


class ToyModule(tf.Module):
    """A TF2 feature vector as TF-Hub describes it: callable, pixels in [0, 1], variables inside."""

    def __init__(self, size):
        super().__init__()
        self.scale = tf.Variable(np.linspace(0.5, 1.5, 48), dtype=tf.float32)
        shape = [None, size, size, 3]
        self.__call__ = tf.function(self.features, input_signature=[tf.TensorSpec(shape, tf.float32)])

    def features(self, pixels):
        return add_toy_network(pixels) * self.scale


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("hub") / "toy"
    tf.saved_model.save(ToyModule(32), str(path))
    return path


def prepare(value, folder):
    return prepare_backbone(parse_backbone(value), folder, quiet_progress())


def check(backbone, tmp_path, scale=1.0, shift=0.0):
    encoded = [file.read_bytes() for file in sorted(paint_images(tmp_path / "images", 3).rglob("*.*"))]
    images = [tf.image.resize(tf.io.decode_image(e, 3, expand_animations=False), [32, 32]) for e in encoded]
    expected = ToyModule(32).features(np.stack(images) / 255 * scale + shift)
    vectors = BackboneSession(tmp_path / backbone.id).compute_bottlenecks(encoded)
    np.testing.assert_allclose(vectors, expected, atol=1e-5)


def test_a_folder_gives_the_bottlenecks_of_the_plain_module(folder, tmp_path):
    backbone = prepare({"hub": str(folder)}, tmp_path)
    assert (backbone.dim, backbone.size) == (48, 32)
    check(backbone, tmp_path)
    check(prepare({"hub": str(folder), "scale": [-1, 1]}, tmp_path), tmp_path, 2.0, -1.0)


def test_an_archive_is_unpacked_and_gives_the_same(folder, tmp_path):
    path = tmp_path / "toy.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.add(folder, ".")
    check(prepare({"hub": str(path)}, tmp_path), tmp_path)


def test_a_tf1_style_signature_is_called_by_its_names(tmp_path):
    module = ToyModule(32)
    signature = tf.function(lambda images: {"default": module.features(images), "other": images})
    spec = tf.TensorSpec([None, 32, 32, 3], tf.float32)
    plain = tf.Module()
    plain.module = module
    tf.saved_model.save(plain, str(tmp_path / "m"), signatures={"default": signature.get_concrete_function(spec)})
    check(prepare({"hub": str(tmp_path / "m")}, tmp_path), tmp_path)


class TellingModule(ToyModule):
    """A callable that gives several tensors by name, as classifiers do."""

    def __init__(self, names):
        super().__init__(32)
        self.names = names

        def call(pixels):
            features = self.features(pixels)
            return {name: features if name == names[-1] else features[:, :5] for name in self.names}

        self.__call__ = tf.function(call, input_signature=[tf.TensorSpec([None, 32, 32, 3], tf.float32)])


@pytest.mark.parametrize("names", [["classes", "default"], ["default_scores", "feature_vector"], ["only"]])
@pytest.mark.parametrize("by_signature", [False, True])
def test_of_several_outputs_the_features_are_taken_whatever_stands_first(tmp_path, names, by_signature):
    module, place = TellingModule(names), tmp_path / "m"
    if by_signature:
        plain = tf.Module()
        plain.module = module
        tf.saved_model.save(plain, str(place), signatures={"default": module.__call__.get_concrete_function()})
    else:
        tf.saved_model.save(module, str(place))
    check(prepare({"hub": str(place)}, tmp_path), tmp_path)


@pytest.mark.parametrize("by_signature", [False, True])
def test_outputs_of_which_none_is_known_for_features_are_named(tmp_path, by_signature):
    module, place = TellingModule(["classes", "scores"]), tmp_path / "m"
    signatures = {"serving_default": module.__call__.get_concrete_function()}
    tf.saved_model.save(module, str(place), signatures=signatures)
    with pytest.raises(UserError, match=r"gives \['classes', 'scores'\]: expected one output, or one named default or"):
        prepare({"hub": str(place), **({"signature": "serving_default"} if by_signature else {})}, tmp_path)


def test_a_module_of_any_size_needs_the_size_from_the_config(tmp_path):
    tf.saved_model.save(ToyModule(None), str(tmp_path / "any"))
    with pytest.raises(UserError, match="takes images of any size: set backbone.size"):
        prepare({"hub": str(tmp_path / "any")}, tmp_path)
    check(prepare({"hub": str(tmp_path / "any"), "size": 32}, tmp_path), tmp_path)


def test_a_module_without_a_usable_signature_is_refused(tmp_path):
    module = tf.Module()
    tf.saved_model.save(module, str(tmp_path / "none"))
    with pytest.raises(UserError, match="has the signatures none: expected one that takes images"):
        prepare({"hub": str(tmp_path / "none")}, tmp_path)


def test_a_size_that_the_module_cannot_take_is_refused(folder, tmp_path):
    with pytest.raises(UserError, match="cannot be called with images of 64x64"):
        prepare({"hub": str(folder), "size": 64}, tmp_path)


def test_a_folder_that_holds_no_module_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="Cannot load the module .*empty"):
        prepare({"hub": str(tmp_path / "empty")}, tmp_path)


@pytest.mark.parametrize("packed", [False, True])
def test_a_module_runs_the_whole_pipeline(folder, toy_config, tmp_path, packed):
    path = folder
    if packed:
        path = tmp_path / "toy.tar"
        with tarfile.open(path, "w") as tar:
            tar.add(folder, "toy")
    images = paint_images(tmp_path / "images", per_class=12)
    values = {**toy_config, "output_dir": str(tmp_path / "run"), "data": {"path": str(images)}}
    values |= {"backbone": {"hub": str(path)}, "evaluate": {"thresholds": {"accuracy": 0.2}}}
    assert main(["run", str(write_config(tmp_path / "c.yaml", **values))]) == 0
    check_bottlenecks_agree(RunDir(tmp_path / "run"), images)
