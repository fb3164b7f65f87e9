import ctypes
import sys

import numpy as np
import pytest
from toys import encode_noise, refusal

from components.backbones.engines import list_engines, load_engine
from components.backbones.prepare import BackboneSession, prepare_backbone
from components.backbones.settings import Augment
from components.backbones.spec import parse_backbone
from components.backbones.views import list_views
from components.extract.engine_choice import compare_directions


@pytest.mark.parametrize("name", ["tensorflow", "tensorflow_bf16", "openvino", "openvino_bf16"])
def test_each_engine_gives_the_bottlenecks_of_tensorflow_in_float32(lite, name):
    if name.startswith("openvino"):
        pytest.importorskip("openvino")
    encoded = encode_noise(8)
    expected = BackboneSession(lite).compute_bottlenecks(encoded)
    found = load_engine(name, lite).compute_bottlenecks(encoded)
    assert found.dtype == np.float32 and found.shape == (8, 1280)
    if name.endswith("bf16"):
        assert compare_directions(found, expected).min() > 0.98
    else:
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_concatenated_backbones_run_only_in_tensorflow(tmp_path, toy_backbone, progress):
    backbone = prepare_backbone(parse_backbone([toy_backbone, toy_backbone]), tmp_path, progress)
    assert list_engines(tmp_path / backbone.id) == ["tensorflow", "tensorflow_bf16"]
    assert "'openvino' is not available" in refusal(load_engine, "openvino", tmp_path / backbone.id)


@pytest.mark.parametrize("name", ["tensorflow", "openvino"])
def test_each_engine_gives_the_views_of_each_image_together(lite, name):
    if name == "openvino":
        pytest.importorskip("openvino")
    encoded = encode_noise(3)
    views = list_views(Augment(flip=True, crops=1, crop_side=0.7, average=False))
    engine = load_engine(name, lite)
    found = engine.compute_bottlenecks(encoded, views)
    assert found.shape == (9, 1280)
    np.testing.assert_allclose(found[::3], engine.compute_bottlenecks(encoded), atol=1e-4)
    for number, image in enumerate(encoded):
        alone = engine.compute_bottlenecks([image], views)
        np.testing.assert_allclose(found[3 * number : 3 * number + 3], alone, atol=1e-4)


@pytest.mark.skipif(sys.platform != "linux", reason="asks the C library of Linux")
def test_models_that_end_in_another_order_leave_a_stack_for_signals_that_is_there(lite):
    pytest.importorskip("openvino")

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
