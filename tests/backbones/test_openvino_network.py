import subprocess
import sys

import numpy as np
import pytest
from toys import encode_noise, quiet_progress, refusal

from components.backbones.engines import load_engine
from components.backbones.openvino_network import quantize_network, quantized_folder
from components.backbones.prepare import prepare_backbone
from components.backbones.spec import parse_backbone
from components.errors import DamagedFile
from components.extract.engine_choice import compare_directions


@pytest.fixture(scope="module")
def quantized(tmp_path_factory):
    """The folder of the embedded backbone beside its quantized network."""
    pytest.importorskip("nncf")
    folder = tmp_path_factory.mktemp("backbones")
    backbone = folder / prepare_backbone(parse_backbone("efficientnet_lite0"), folder, quiet_progress()).id
    quantize_network(backbone, encode_noise(3))  # fewer than a batch
    return backbone


def test_bottlenecks_of_integers_point_nearly_where_those_of_floats_do(quantized):
    encoded = encode_noise(11, seed=1)
    found = load_engine("openvino_int8", quantized).compute_bottlenecks(encoded)
    expected = load_engine("tensorflow", quantized).compute_bottlenecks(encoded)
    assert found.shape == (11, 1984) and not np.allclose(found, expected, atol=1e-3)
    assert compare_directions(found, expected).min() > 0.9
    weights, graph = quantized_folder(quantized) / "model.bin", quantized / "graph.pb"
    assert weights.stat().st_size < graph.stat().st_size / 3


def test_a_damaged_quantized_network_is_named(quantized, tmp_path):
    copy = tmp_path / "id-int8"
    copy.mkdir()
    (copy / "model.xml").write_text("<net")
    (copy / "model.bin").touch()
    (tmp_path / "id").symlink_to(quantized)
    with pytest.raises(DamagedFile) as caught:
        load_engine("openvino_int8", tmp_path / "id")
    assert caught.value.path == str(copy / "model.xml")


def test_without_nncf_the_user_is_told_how_to_install_it(lite, monkeypatch):
    monkeypatch.setitem(sys.modules, "nncf", None)
    assert "pip install 'topgraft[int8]'" in refusal(quantize_network, lite, [])


def test_openvino_is_imported_without_what_reports_its_use():
    code = """
import sys, threading
import components.backbones.openvino_network
import openvino.tools.ovc
assert not [name for name in sys.modules if name.startswith("openvino_telemetry.")]
assert type(openvino.tools.ovc.telemetry).__module__ == "openvino.tools.ovc.telemetry_stub"
"""
    subprocess.run([sys.executable, "-c", code], check=True)
