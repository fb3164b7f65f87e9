import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cards import make_card
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, precision_score, recall_score
from toys import write_config

from components.backbones.spec import Spec
from components.export.versions import list_versions
from components.storage.tables import read_csv
from pipeline.cli import main


@pytest.fixture(scope="module")
def export(toy_run):
    return list_versions(toy_run.exports)[-1]


@pytest.fixture(scope="module")
def card(export):
    return json.loads((export / "model_card.json").read_text())


def find(card, kind, part=None):
    (metric,) = [
        metric
        for metric in card["quantitative_analysis"]["performance_metrics"]
        if (metric["type"], metric["slice"]) == (kind, part)
    ]
    return metric


def check_interval(metric, hits, images):
    expected = binomtest(int(hits), int(images)).proportion_ci(0.95, "exact")
    found = [metric["confidence_interval"][bound] for bound in ("lower_bound", "upper_bound")]
    np.testing.assert_allclose(found, [expected.low, expected.high], atol=1e-6)
    assert metric["images"] == images


def test_figures_are_those_of_scikit_learn_on_the_predictions(card, toy_run):
    rows = read_csv(toy_run.predictions)
    actual, predicted = ([row[name] for row in rows] for name in ("actual", "label"))
    accuracy = find(card, "accuracy")
    assert accuracy["value"] == pytest.approx(accuracy_score(actual, predicted))
    check_interval(accuracy, np.sum(np.equal(actual, predicted)), len(rows))
    labels = card["classes"]
    for kind, score, among in (("recall", recall_score, actual), ("precision", precision_score, predicted)):
        expected = score(actual, predicted, labels=labels, average=None)
        for label, value in zip(labels, expected, strict=True):
            metric = find(card, kind, {"class": label})
            assert metric["value"] == pytest.approx(value)
            hits = sum(pair == (label, label) for pair in zip(actual, predicted, strict=True))
            check_interval(metric, hits, among.count(label))
    for source in ("", "camera", "phone"):
        right = [row["actual"] == row["label"] for row in rows if row["source"] == source]
        metric = find(card, "accuracy", {"source": source})
        assert metric["value"] == pytest.approx(np.mean(right))
        check_interval(metric, sum(right), len(right))


def test_the_card_counts_the_data_as_the_run_does(card, toy_run, toy_config):
    counts = json.loads(toy_run.record.read_text())["counts"]
    data = card["model_parameters"]["data"]
    assert {name: data[name] for name in ("found", "written", "rejected", "duplicates")} == {
        name: counts[name] for name in ("found", "written", "rejected", "duplicates")
    }
    rows = read_csv(toy_run.images)
    for label, splits in data["classes"].items():
        assert splits == {
            split: sum((row["label"], row["split"]) == (label, split) for row in rows) for split in splits
        }
    assert sum(map(sum, (splits.values() for splits in data["classes"].values()))) == counts["written"]
    assert data["source"] == [toy_config["data"]["path"]]


def test_the_card_names_version_backbone_training_and_verdict(card, export):
    assert card["model_details"]["name"] == "toy"
    assert card["model_details"]["version"]["name"] == export.name
    (backbone,) = card["model_parameters"]["backbone"]
    assert backbone["source"].endswith("toy.pb") and backbone["licence"] is None
    assert card["model_parameters"]["training"]["train"]["learning_rate"] == 0.05
    analysis = card["quantitative_analysis"]
    assert analysis["blessed"] and analysis["gated"] and analysis["verdict"] == "BLESSED"
    assert analysis["thresholds"] == {"accuracy": 0.7, "loss": 1.0}
    assert 0 <= analysis["calibration"]["ece"] <= 1


def test_a_completed_card_leaves_every_stage_as_it_was(toy_run, toy_config, tmp_path, capsys, card):
    before = (list_versions(toy_run.exports)[-1] / "model_card.json").stat().st_mtime_ns
    assert main(["run", str(write_config(tmp_path / "toy.yaml", **toy_config))]) == 0
    assert capsys.readouterr().out.count("as before") == 8
    assert (list_versions(toy_run.exports)[-1] / "model_card.json").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("spec", "licence"),
    [
        (Spec(name="efficientnet_lite0"), "Apache-2.0"),
        (Spec(keras="VGG19"), "CC BY 4.0"),
        (Spec(keras="ResNet50V2"), "Apache-2.0"),
        (Spec(keras="VGG19", weights="mine.h5"), None),
        (Spec(hub="a/b"), None),
    ],
)
def test_the_licence_is_named_where_it_is_known(spec, licence):
    assert make_card(backbones=[spec])["model_parameters"]["backbone"][0]["licence"] == licence


def test_a_model_of_bottlenecks_alone_takes_no_images():
    card = make_card(backbones=[Spec(bottlenecks="made")])
    assert card["model_parameters"]["input_format"] == "bottlenecks of the backbone"
    limits = card["considerations"]["limitations"]
    assert limits[0] == "Measured only on images like those in photos."
    assert "takes bottlenecks of 1280 numbers" in limits[1]


def test_the_export_lies_as_tensorflow_serving_looks_for_it(export):
    # <model>/<version>/saved_model.pb with a number as version: tensorflow.org/tfx/serving/serving_config
    assert export.name.isdecimal() and export.parent.name == "export"
    assert (export / "saved_model.pb").is_file() and (export / "variables" / "variables.index").is_file()
    tool = Path(sys.executable).parent / "saved_model_cli"
    shown = subprocess.run([str(tool), "show", "--dir", str(export), "--all"], capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    assert "signature_def['serving_default']" in shown.stdout and "inputs['image_bytes']" in shown.stdout
