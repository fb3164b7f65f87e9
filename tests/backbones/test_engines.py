import ctypes
import sys

import numpy as np
import pytest
import tensorflow as tf
from toys import encode_noise

from components.backbones.engines import load_engine
from components.backbones.openvino_network import UnsupportedNetwork
from components.backbones.prepare import BackboneSession, prepare_backbone
from components.backbones.settings import Augment
from components.backbones.spec import parse_backbone
from components.backbones.views import list_views
from components.extract.engine_choice import compare_directions


@pytest.mark.parametrize("name", ["tensorflow", "openvino", "openvino_bf16"])
@pytest.mark.parametrize("count", [1, 8, 21])
def test_each_engine_gives_the_bottlenecks_of_tensorflow_in_float32(lite, name, count):
    encoded = encode_noise(count)
    expected = BackboneSession(lite).compute_bottlenecks(encoded)
    found = load_engine(name, lite).compute_bottlenecks(encoded)
    assert found.dtype == np.float32 and found.shape == (count, 1984)
    if name.endswith("bf16"):
        assert compare_directions(found, expected).min() > 0.98
    else:
        np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("name", ["openvino", "openvino_bf16"])
def test_a_bottleneck_does_not_depend_on_the_other_images_of_the_batch(lite, name):
    encoded, engine = encode_noise(11), load_engine(name, lite)
    together = engine.compute_bottlenecks(encoded)
    for number in (0, 7, 8, 10):
        np.testing.assert_array_equal(engine.compute_bottlenecks([encoded[number]])[0], together[number])
    np.testing.assert_array_equal(engine.compute_bottlenecks(encoded[::-1])[::-1], together)


def test_backbones_side_by_side_run_in_openvino(tmp_path, toy_backbone, progress):
    specs = [toy_backbone, "efficientnet_lite0"]  # of two sizes
    backbone = prepare_backbone(parse_backbone(specs), tmp_path, progress)
    encoded = encode_noise(9)
    views = list_views(Augment(flip=True))
    expected = BackboneSession(tmp_path / backbone.id).compute_bottlenecks(encoded, views)
    found = load_engine("openvino", tmp_path / backbone.id).compute_bottlenecks(encoded, views)
    assert found.shape == (18, backbone.dim)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_network_with_an_operation_that_openvino_does_not_know_is_refused(tmp_path, progress):
    with tf.Graph().as_default() as graph:
        pixels = tf.compat.v1.placeholder(tf.float32, [None, 16, 16, 3], "input")
        words = tf.strings.as_string(tf.reshape(pixels, [-1, 768])[:, :4])
        tf.strings.to_number(words, name="features")
    (tmp_path / "odd.pb").write_bytes(graph.as_graph_def().SerializeToString())
    spec = {"frozen_graph": str(tmp_path / "odd.pb"), "input": "input", "bottleneck": "features"}
    folder = tmp_path / prepare_backbone(parse_backbone(spec), tmp_path, progress).id
    with pytest.raises(UnsupportedNetwork, match="OpenVINO cannot run this backbone .*AsString.* set extract.engine"):
        load_engine("openvino", folder)


@pytest.mark.parametrize("name", ["tensorflow", "openvino"])
def test_each_engine_gives_the_views_of_each_image_together(lite, name):
    encoded = encode_noise(3)
    views = list_views(Augment(flip=True, crops=1, crop_side=0.7, average=False))
    engine = load_engine(name, lite)
    found = engine.compute_bottlenecks(encoded, views)
    assert found.shape == (9, 1984)
    np.testing.assert_allclose(found[::3], engine.compute_bottlenecks(encoded), atol=1e-4)
    for number, image in enumerate(encoded):
        alone = engine.compute_bottlenecks([image], views)
        np.testing.assert_allclose(found[3 * number : 3 * number + 3], alone, atol=1e-4)


@pytest.mark.skipif(sys.platform != "linux", reason="asks the C library of Linux")
def test_models_that_end_in_another_order_leave_a_stack_for_signals_that_is_there(lite):
    class Stack(ctypes.Structure):
        _fields_ = [("place", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]

    def read_stack():
        stack = Stack()
        assert ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack)) == 0
        return stack.place, stack.flags, stack.size

    before = read_stack()
    first, second = load_engine("openvino", lite), load_engine("openvino", lite)
    assert read_stack() == before
    del first
    del second
    assert read_stack() == before
