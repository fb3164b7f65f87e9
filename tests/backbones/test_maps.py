import numpy as np
import pytest
import tensorflow as tf
from toys import encode_noise

from components.backbones.maps import NoMaps, list_maps
from components.backbones.prepare import BackboneSession, import_graph, prepare_backbone
from components.backbones.spec import Spec

v1 = tf.compat.v1


def check_maps(folder, side):
    """Assert that the mean of a single backbone's maps is its bottleneck."""
    graph, images = import_graph(folder), encode_noise(2)
    (maps,) = list_maps(graph)
    with v1.Session(graph=graph) as session:
        values = session.run(maps, {"image_bytes:0": images})
    assert values.shape[1:3] == (side, side)
    np.testing.assert_allclose(values.mean((1, 2)), BackboneSession(folder).compute_bottlenecks(images), atol=1e-5)


def test_the_means_of_the_embedded_backbones_maps_scaled_and_joined_are_its_bottleneck(lite):
    graph, images = import_graph(lite), encode_noise(2)
    maps = list_maps(graph)
    with v1.Session(graph=graph) as session:
        values = session.run(maps, {"image_bytes:0": images})
    assert [part.shape[1:] for part in values] == [(14, 14, 80), (14, 14, 112), (7, 7, 192), (7, 7, 320), (7, 7, 1280)]
    means = [part.mean((1, 2)) for part in values]
    joined = [mean / np.linalg.norm(mean, axis=1, keepdims=True) * mean.shape[1] ** 0.5 for mean in means]
    expected = BackboneSession(lite).compute_bottlenecks(images)
    np.testing.assert_allclose(np.concatenate(joined, 1), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("values", "side"), [({"keras": "MobileNetV2"}, 3), ({"keras": "ResNet50", "layer": "avg_pool", "size": 224}, 7)]
)
def test_keras_applications_have_maps_before_their_own_pooling_too(values, side, tmp_path, progress):
    spec = Spec(**{"size": 96, "weights": "none", **values})
    check_maps(tmp_path / prepare_backbone((spec,), tmp_path, progress).id, side)


def find_in(build):
    with tf.Graph().as_default() as graph:
        tf.identity(build(v1.placeholder(tf.float32, [None, 6, 6, 4], "x")), "bottleneck")
        return list_maps(graph)[0].op.name


@pytest.mark.parametrize(
    ("build", "name"),
    [
        (lambda x: tf.reduce_mean(x, [1, 2]), "x"),
        (lambda x: tf.squeeze(tf.reduce_mean(x, [-3, -2], keepdims=True), [1, 2]), "x"),
        (lambda x: tf.reshape(tf.nn.avg_pool2d(x, 6, 6, "VALID"), [-1, 4]), "x"),
        (lambda x: tf.reduce_mean(tf.nn.avg_pool2d(x, 3, 3, "VALID", name="half"), [1, 2]), "half"),
        (lambda x: tf.reshape(x, [-1, 144]), "x"),
        (lambda x: tf.pow(tf.reduce_mean(tf.pow(tf.maximum(x, 0.1, name="up"), 3.0), [1, 2]), 1 / 3), "up"),
    ],
    ids=["mean", "kept", "pool", "two steps", "flatten", "gem"],
)
def test_the_last_values_with_places_are_found(build, name):
    assert find_in(build) == name


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda x: tf.nn.relu(tf.reduce_mean(x, [1, 2]), name="after"), "comes from Relu 'after'"),
        (lambda x: tf.reduce_mean(x, [2, 3]), "comes from Mean"),
        (lambda x: tf.reshape(x, [-1, 4]), "comes from Reshape"),
        (lambda x: x[:, 0, 0], "comes from StridedSlice"),
        (lambda x: tf.sqrt(tf.reduce_mean(x, [1, 2])), "comes from Sqrt"),
        (lambda x: tf.pow(tf.reduce_mean(x, [1, 2]), 0.5), "the power 0.5 of a mean"),
        (lambda x: tf.reduce_mean(v1.placeholder(tf.float32, [None, None, None, 4], "any"), [1, 2]), "Placeholder"),
    ],
    ids=["activation", "channels first", "across images", "slice", "root", "power", "any size"],
)
def test_a_bottleneck_that_is_more_than_pooled_has_none(build, words):
    with pytest.raises(NoMaps, match=words):
        find_in(build)
