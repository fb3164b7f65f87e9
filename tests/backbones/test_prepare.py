import io
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from toys import paint_images, quiet_progress, write_toy_graph

from components.backbones.prepare import (
    BackboneSession,
    find_prepared,
    load_graph,
    prepare_backbone,
    prepare_cached,
    read_backbone,
)
from components.backbones.spec import parse_backbone
from components.errors import UserError
from components.storage.files import PARTIAL, write_json


def prepare(value, folder):
    return prepare_backbone(parse_backbone(value), folder, quiet_progress())


@pytest.fixture(scope="module")
def lite0(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lite0")
    return folder, prepare("efficientnet_lite0", folder)


@pytest.fixture
def toy(tmp_path, toy_backbone):
    return BackboneSession(tmp_path / prepare(toy_backbone, tmp_path).id)


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_two_that_prepare_a_backbone_in_the_cache_at_once_write_it_once(tmp_path, toy_backbone, monkeypatch):
    monkeypatch.setenv("TOPGRAFT_CACHE", str(tmp_path))
    written = []

    def write(path, values):
        written.append(path)
        time.sleep(0.5)  # the other would meet it here
        write_json(path, values)

    monkeypatch.setattr("components.backbones.prepare.write_json", write)
    specs = parse_backbone(toy_backbone)
    with ThreadPoolExecutor(2) as pool:
        one, two = pool.map(lambda _: prepare_cached(specs, quiet_progress()), range(2))
    assert one == two and len(written) == 1
    backbone, folder = one
    assert folder == tmp_path / "backbones" / backbone.id and read_backbone(folder) == backbone
    assert prepare_cached(specs, quiet_progress()) == one and len(written) == 1


def test_a_backbone_that_is_not_renamed_yet_is_not_found(tmp_path, toy_backbone):
    backbone = prepare(toy_backbone, tmp_path)
    assert find_prepared(tmp_path, backbone.source) == backbone
    (tmp_path / backbone.id).rename(tmp_path / f"{backbone.id}{PARTIAL}")
    assert find_prepared(tmp_path, backbone.source) is None


def test_the_id_is_a_function_of_the_graph(lite0, tmp_path, toy_backbone):
    _, backbone = lite0
    tf.function(lambda: tf.map_fn(lambda x: x + 1, tf.range(3)))()  # loops of others must not number ours
    assert prepare("efficientnet_lite0", tmp_path) == backbone
    assert prepare(toy_backbone, tmp_path).id != backbone.id


def test_the_json_tells_size_width_and_classes(lite0):
    folder, backbone = lite0
    assert read_backbone(folder / backbone.id) == backbone
    assert (backbone.size, backbone.dim, len(backbone.labels)) == (224, 1984, 1000)
    assert json.loads((folder / backbone.id / "backbone.json").read_text())["name"] == "efficientnet_lite0"


def test_the_graph_has_the_named_tensors(lite0):
    folder, backbone = lite0
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(load_graph(folder / backbone.id), name="")
    names = ("image_bytes", "pixels", "bottleneck", "probabilities")
    shapes = {name: graph.get_tensor_by_name(f"{name}:0").shape.as_list() for name in names}
    assert shapes == {
        "image_bytes": [None],
        "pixels": [None, 224, 224, 3],
        "bottleneck": [None, 1984],
        "probabilities": [None, 1000],
    }


def test_every_format_is_decoded_alike(toy):
    pixels = np.random.default_rng(0).integers(0, 255, (40, 50, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "BMP")
    first, second = toy.compute_bottlenecks([buffer.getvalue(), png(pixels)])
    np.testing.assert_array_equal(first, second)


def test_preprocessing_is_plain_tensorflow(toy):
    pixels = np.random.default_rng(0).integers(0, 255, (40, 50, 3)).astype(np.uint8)
    expected = tf.nn.avg_pool2d(tf.image.resize(pixels[None], [32, 32]) / 127.5 - 1, 8, 8, "VALID")
    np.testing.assert_allclose(toy.compute_bottlenecks([png(pixels)])[0], np.ravel(expected), atol=1e-5)


def test_a_batch_equals_its_images_one_by_one(lite0, tmp_path):
    folder, backbone = lite0
    session = BackboneSession(folder / backbone.id)
    encoded = [file.read_bytes() for file in sorted(paint_images(tmp_path, 2).rglob("*.*"))]
    together = session.compute_bottlenecks(encoded)
    apart = np.concatenate([session.compute_bottlenecks([image]) for image in encoded])
    np.testing.assert_allclose(together, apart, atol=1e-4)


def test_an_earlier_layer_can_be_taken_and_pooled(tmp_path, lite0):
    folder, backbone = lite0
    image = png(np.random.default_rng(0).integers(0, 255, (60, 60, 3)).astype(np.uint8))
    maps = BackboneSession(folder / backbone.id).run("network/block5", "image_bytes", [image])
    expected = {
        "avg": maps.mean((1, 2)),
        "gem": np.cbrt((np.maximum(maps, 0) ** 3).mean((1, 2))),
        "max": maps.max((1, 2)),
        "flatten": maps.reshape(1, -1),
    }
    for pooling, vectors in expected.items():
        part = prepare({"name": "efficientnet_lite0", "layer": "block5", "pooling": pooling}, tmp_path)
        session = BackboneSession(tmp_path / part.id)
        np.testing.assert_allclose(session.compute_bottlenecks([image]), vectors, rtol=1e-4, atol=1e-4)
        assert part.labels == ()


def test_the_average_of_the_last_maps_is_the_last_part_of_the_bottleneck(tmp_path, lite0):
    folder, backbone = lite0
    image = png(np.random.default_rng(0).integers(0, 255, (60, 60, 3)).astype(np.uint8))
    part = prepare({"name": "efficientnet_lite0", "layer": "maps", "pooling": "avg"}, tmp_path)
    (vector,) = BackboneSession(tmp_path / part.id).compute_bottlenecks([image])
    (expected,) = BackboneSession(folder / backbone.id).compute_bottlenecks([image])
    np.testing.assert_allclose(vector / np.linalg.norm(vector) * 1280**0.5, expected[-1280:], rtol=1e-4, atol=1e-4)


def test_several_backbones_give_their_normalised_bottlenecks_side_by_side(tmp_path, toy_backbone, lite0):
    folder, backbone = lite0
    image = png(np.random.default_rng(0).integers(0, 255, (60, 60, 3)).astype(np.uint8))
    both = prepare(["efficientnet_lite0", toy_backbone], tmp_path)
    assert both.dim == 1984 + 48
    (joined,) = BackboneSession(tmp_path / both.id).compute_bottlenecks([image])
    alone = [BackboneSession(folder / backbone.id), BackboneSession(tmp_path / prepare(toy_backbone, tmp_path).id)]
    for session, part in zip(alone, np.split(joined, [1984]), strict=True):
        (vector,) = session.compute_bottlenecks([image])
        np.testing.assert_allclose(part, vector / np.linalg.norm(vector) * len(vector) ** 0.5, atol=1e-3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"bottleneck": "feature"}, r"no layer or tensor 'feature'; the nearest are .*features \(None, 48\)"),
        ({"input": "inputs"}, r"no tensor 'inputs'; the nearest are input \(None, 32, 32, 3\)"),
        ({"input": "inputs", "size": 32}, "has no tensor 'inputs'"),
        ({"pooling": "max"}, r"cannot be pooled by 'max': expected maps"),
    ],
)
def test_a_tensor_that_is_not_there_is_named_with_the_nearest(tmp_path, toy_backbone, change, words):
    with pytest.raises(UserError, match=words):
        prepare({**toy_backbone, **change}, tmp_path)


def test_an_unknown_layer_is_named_with_the_nearest_and_their_shapes(tmp_path):
    with pytest.raises(UserError, match=r"'block99'; the nearest are block\d+ \(None, \d+, \d+, \d+\)"):
        prepare({"name": "efficientnet_lite0", "layer": "block99"}, tmp_path)


def test_a_graph_that_would_read_files_is_refused(tmp_path):
    with tf.Graph().as_default() as graph:
        pixels = tf.compat.v1.placeholder(tf.float32, [None, 32, 32, 3], "input")
        secret = tf.strings.length(tf.io.read_file("/etc/hostname"))
        tf.reduce_mean(pixels, [1, 2], name="features") + tf.cast(secret, tf.float32)
    path = tmp_path / "evil.pb"
    path.write_bytes(graph.as_graph_def().SerializeToString())
    with pytest.raises(UserError, match="operation 'ReadFile'"):
        prepare({"frozen_graph": str(path), "input": "input", "bottleneck": "features"}, tmp_path)


@pytest.mark.parametrize("content", [b"", b"no graph at all", b"\x0a\xff\xff"])
def test_a_file_that_is_no_graph_is_refused(tmp_path, content):
    path = tmp_path / "x.pb"
    path.write_bytes(content)
    with pytest.raises(UserError, match="x.pb"):
        prepare({"frozen_graph": str(path), "input": "input", "bottleneck": "features"}, tmp_path)


def test_what_was_prepared_from_the_same_source_is_not_prepared_again(tmp_path, toy_backbone, monkeypatch):
    first = prepare(toy_backbone, tmp_path)
    monkeypatch.setattr("components.backbones.prepare.build_network", None)
    assert prepare(toy_backbone, tmp_path) == first


def test_a_changed_source_is_prepared_again(tmp_path):
    path = write_toy_graph(tmp_path / "toy.pb")
    spec = {"frozen_graph": str(path), "input": "input", "bottleneck": "features", "scale": [-1, 1]}
    first = prepare(spec, tmp_path / "out")
    assert prepare({**spec, "scale": [0, 1]}, tmp_path / "out").id != first.id
    os.utime(path, (0, 0))
    assert prepare(spec, tmp_path / "out").source != first.source
