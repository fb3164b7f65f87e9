import csv
import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from components.export import list_versions
from components.predict import load_export


@pytest.fixture(scope="module")
def export(toy_run) -> Path:
    return list_versions(toy_run.exports)[-1]


def test_both_signatures_are_as_the_contract_says(export):
    model = tf.saved_model.load(str(export))
    assert set(model.signatures) == {"serving_default", "bottleneck"}
    assert list(model.signatures["serving_default"].structured_input_signature[1]) == ["image_bytes"]
    assert list(model.signatures["bottleneck"].structured_input_signature[1]) == ["bottleneck"]
    for signature in model.signatures.values():
        outputs = {name: spec.dtype for name, spec in signature.structured_outputs.items()}
        assert outputs == {"index": tf.int64, "label": tf.string, "probabilities": tf.float32}


def test_image_bytes_and_bottlenecks_give_the_same_index_for_every_test_image(toy_run, toy_config, export):
    with toy_run.predictions.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) > 10
    encoded = [(Path(toy_config["data"]["path"]) / row["path"]).read_bytes() for row in rows]
    outputs = tf.saved_model.load(str(export)).signatures["serving_default"](image_bytes=tf.constant(encoded))
    assert outputs["index"].numpy().tolist() == [int(row["index"]) for row in rows]
    assert [label.decode() for label in outputs["label"].numpy()] == [row["label"] for row in rows]
    best = outputs["probabilities"].numpy().max(1)
    np.testing.assert_allclose(best, [float(row["probability"]) for row in rows], atol=1e-5)


def test_the_labels_travel_with_the_model(export, tmp_path):
    moved = tmp_path / "moved"
    __import__("shutil").copytree(export, moved)
    assert (moved / "assets" / "labels.txt").read_text() == "cyan\nmagenta\nyellow\n"
    assert load_export(moved).labels == ["cyan", "magenta", "yellow"]


def test_the_model_card_states_what_went_in(export, toy_run):
    card = json.loads((export / "model_card.json").read_text())
    assert card["classes"] == ["cyan", "magenta", "yellow"]
    assert sum(card["images"].values()) == json.loads(toy_run.record.read_text())["counts"]["written"]


def test_versions_are_ordered_by_number(tmp_path):
    for name in ("9", "10", "11.partial", "notes"):
        (tmp_path / name).mkdir()
    assert [folder.name for folder in list_versions(tmp_path)] == ["9", "10"]
