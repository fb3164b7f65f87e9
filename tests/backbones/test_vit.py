"""Vision transformers against outputs that the library transformers computed with the same weights, on torch."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from toys import check_bottlenecks_agree, encode_noise, paint_images, quiet_progress, write_config

from components.backbones.engines import load_engine
from components.backbones.prepare import BackboneSession, import_graph, prepare_backbone
from components.backbones.spec import parse_backbone
from components.backbones.vit import add_vit, list_layers
from components.backbones.vit_folder import FAMILIES, Weights, read_config
from components.finetune.trainable_graph import weights_after
from components.run_dir import RunDir
from components.storage.places import as_path, upload
from pipeline.cli import main

FOLDERS = Path(__file__).with_name("vit")


@pytest.mark.parametrize("name", FAMILIES)
def test_every_layer_at_three_sizes_is_that_of_the_reference_library(name):
    folder = FOLDERS / name
    expected = np.load(folder / "expected.npz")
    config, weights = read_config(folder, name), Weights(folder, name)
    keys = [key for key in expected.files if key != "images"]
    assert {key.split()[0] for key in keys} == {*list_layers(config, weights)}
    for key in keys:
        layer, size = key.split()
        pixels = expected["images"][:, : int(size), : int(size)] / np.float32(127.5) - 1
        with tf.Graph().as_default(), tf.compat.v1.Session() as session:
            placeholder = tf.compat.v1.placeholder(tf.float32, [None, *pixels.shape[1:]])
            found = session.run(add_vit(placeholder, layer, config, weights), {placeholder: pixels})
        assert found.shape == expected[key].shape
        np.testing.assert_allclose(found, expected[key], atol=1e-5, rtol=0, err_msg=key)


def test_the_default_layer_of_a_family_is_one_that_it_has():
    for name in FAMILIES:
        folder = FOLDERS / name
        assert FAMILIES[name].layer in list_layers(read_config(folder, name), Weights(folder, name))


@pytest.mark.parametrize("name", ["dinov2", "siglip"])
def test_openvino_computes_the_same_and_the_last_block_can_be_trained(name, tmp_path):
    backbone = prepare_backbone(parse_backbone(str(FOLDERS / name)), tmp_path, quiet_progress())
    folder, images = tmp_path / backbone.id, encode_noise(3)
    expected = BackboneSession(folder).compute_bottlenecks(images)
    np.testing.assert_allclose(load_engine("openvino", folder).compute_bottlenecks(images), expected, atol=1e-3)
    found = weights_after(import_graph(folder).as_graph_def(), "block0")
    assert sum("vit/block1" in weight for weight in found) == 12  # two norms, four kernels, each with a shift
    assert not any("block0" in weight for weight in found)


def test_a_folder_runs_the_whole_pipeline_and_fine_tuning(toy_config, tmp_path):
    images = paint_images(tmp_path / "images", per_class=12)
    values = {**toy_config, "output_dir": str(tmp_path / "run"), "data": {"path": str(images)}}
    values |= {"backbone": {"vit": str(FOLDERS / "dinov2_with_registers")}}
    values |= {"evaluate": {"thresholds": {"accuracy": 0.2}}}
    assert main(["run", str(write_config(tmp_path / "c.yaml", **values))]) == 0
    check_bottlenecks_agree(RunDir(tmp_path / "run"), images)
    for name in ("onnx", "tflite"):
        assert main(["export", str(tmp_path / "run"), "--to", name, "--quiet"]) == 0
    values["train"] = {**values["train"], "finetune": {"from": "block0", "epochs": 1}}
    assert main(["run", str(write_config(tmp_path / "c.yaml", **values))]) == 0


def test_two_folders_side_by_side_in_averaged_views_run_draw_a_curve_and_are_not_converted(
    toy_config, tmp_path, capsys
):
    images = paint_images(tmp_path / "images", per_class=12)
    values = {**toy_config, "output_dir": str(tmp_path / "run"), "data": {"path": str(images)}}
    values |= {"backbone": [{"vit": str(FOLDERS / name)} for name in ("dinov2", "siglip")]}
    values |= {"augment": {"flip": True, "average": True}, "evaluate": {"thresholds": {"accuracy": 0.2}}}
    config, run = str(write_config(tmp_path / "c.yaml", **values)), RunDir(tmp_path / "run")
    assert main(["run", config]) == 0
    assert main(["curve", config, "--shots", "4", "--draws", "1"]) == 0
    assert main(["export", str(run.root), "--to", "onnx", "--quiet"]) == 2
    assert "a conversion needs a run with one backbone" in capsys.readouterr().err


@pytest.mark.usefixtures("storage")
def test_a_folder_in_cloud_storage_is_the_same_network(tmp_path):
    remote = as_path("gs://bucket/vit/siglip")
    upload(FOLDERS / "siglip", remote)
    here, there = (
        prepare_backbone(parse_backbone({"vit": str(place)}), tmp_path / name, quiet_progress())
        for name, place in (("here", FOLDERS / "siglip"), ("there", remote))
    )
    images = encode_noise(2)
    vectors = [
        BackboneSession(tmp_path / name / backbone.id).compute_bottlenecks(images)
        for name, backbone in (("here", here), ("there", there))
    ]
    np.testing.assert_array_equal(*vectors)
