import io

import numpy as np
import pytest
import tensorflow as tf
from conftest import paint_images, write_toy_backbone
from PIL import Image

from components.backbone import BackboneSession, load_graph, prepare_backbone, read_backbone
from components.errors import UserError


@pytest.fixture(scope="module")
def lite0(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lite0")
    return folder, prepare_backbone("efficientnet_lite0", folder)


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_the_id_is_a_function_of_the_graph(lite0, tmp_path):
    _, backbone = lite0
    tf.function(lambda: tf.map_fn(lambda x: x + 1, tf.range(3)))()  # loops of others must not number ours
    assert prepare_backbone("efficientnet_lite0", tmp_path) == backbone
    assert write_toy_backbone("toy", tmp_path).id != backbone.id


def test_the_json_tells_size_and_width(lite0):
    folder, backbone = lite0
    assert read_backbone(folder / backbone.id) == backbone
    assert (backbone.size, backbone.dim, backbone.own_classes) == (224, 1280, 1000)


def test_the_graph_has_the_named_tensors(lite0):
    folder, backbone = lite0
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(load_graph(folder / backbone.id), name="")
    shapes = {
        name: graph.get_tensor_by_name(f"{name}:0").shape.as_list() for name in ("image_bytes", "pixels", "bottleneck")
    }
    assert shapes == {"image_bytes": [None], "pixels": [None, 224, 224, 3], "bottleneck": [None, 1280]}


def test_every_format_is_decoded_alike(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (40, 50, 3)).astype(np.uint8)
    encoded = []
    for kind in ("PNG", "BMP"):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, kind)
        encoded.append(buffer.getvalue())
    session = BackboneSession(tmp_path / write_toy_backbone("toy", tmp_path).id)
    first, second = session.compute_bottlenecks(encoded)
    np.testing.assert_array_equal(first, second)


def test_preprocessing_is_plain_tensorflow(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (40, 50, 3)).astype(np.uint8)
    session = BackboneSession(tmp_path / write_toy_backbone("toy", tmp_path).id)
    expected = tf.nn.avg_pool2d((tf.image.resize(pixels[None], [32, 32]) - 127.0) / 128.0, 8, 8, "VALID")
    np.testing.assert_allclose(session.compute_bottlenecks([png(pixels)])[0], np.ravel(expected), atol=1e-5)


def test_a_batch_equals_its_images_one_by_one(lite0, tmp_path):
    folder, backbone = lite0
    session = BackboneSession(folder / backbone.id)
    encoded = [file.read_bytes() for file in sorted(paint_images(tmp_path, 2).rglob("*.*"))]
    together = session.compute_bottlenecks(encoded)
    apart = np.concatenate([session.compute_bottlenecks([image]) for image in encoded])
    np.testing.assert_allclose(together, apart, atol=1e-4)


def test_an_unknown_backbone_is_refused_with_the_nearest(tmp_path):
    with pytest.raises(UserError, match="'efficientnet_lite3'; did you mean 'efficientnet_lite"):
        prepare_backbone("efficientnet_lite3", tmp_path)
