import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import write_config
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, precision_score, recall_score

from components.catalog import Spec
from components.export import list_versions
from components.features import Audit, Examples, Work
from components.model_card import Measured, Origin, build_card, describe_card
from components.tables import read_csv
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
        for label, value in zip(labels, expected):
            metric = find(card, kind, {"class": label})
            assert metric["value"] == pytest.approx(value)
            hits = sum(pair == (label, label) for pair in zip(actual, predicted))
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
    assert analysis["blessed"] and analysis["thresholds"] == {"accuracy": 0.7, "loss": 1.0}
    assert 0 <= analysis["calibration"]["ece"] <= 1


def test_a_completed_card_leaves_every_stage_as_it_was(toy_run, toy_config, tmp_path, capsys, card):
    before = (list_versions(toy_run.exports)[-1] / "model_card.json").stat().st_mtime_ns
    assert main(["run", str(write_config(tmp_path / "toy.yaml", **toy_config))]) == 0
    assert capsys.readouterr().out.count("as before") == 8
    assert (list_versions(toy_run.exports)[-1] / "model_card.json").stat().st_mtime_ns == before


EXAMPLES = Examples(Work(), 41, 40, 1, 2, 1, {"train": 20, "val": 4, "test": 16}, ["a", "b"], 1, [])
COUNTS = {("a", "test"): 12, ("b", "test"): 4, ("a", "train"): 20, ("b", "val"): 4}
FACTS = {
    "backbone": {"name": "efficientnet_lite0", "id": "x", "dim": 1280},
    "classes": ["a", "b"],
    "images": EXAMPLES.splits,
    "validation": {},
    "abstention": None,
}
AUDIT = Audit(Work(), 5, 4, 2)
MEASURED = Measured(
    np.array([[12, 0], [4, 0]]),
    {"top5": 1.0, "loss": 0.5},
    {},
    {"calibration": {"ece": 0.1}, "abstention": None},
    3,
    0.6,
)


def make_card(measured=MEASURED, audit=AUDIT, examples=EXAMPLES, facts=FACTS, reasons=(), **origin):
    values = {
        "name": "x",
        "software": "0",
        "data": ["photos"],
        "backbones": [Spec(name="efficientnet_lite0")],
        "training": {},
        "thresholds": {},
    }
    verdict = {"reasons": list(reasons), "baseline": None}
    return build_card(Origin(**{**values, **origin}), "0", facts, examples, COUNTS, "d", audit, measured, verdict)


def limits(**values):
    return " ".join(make_card(**values)["considerations"]["limitations"])


def test_a_limit_is_stated_where_the_facts_give_it_and_only_there():
    text = limits()
    assert "fewer than 10 test images: b." in text
    assert "beyond chance: b." in text
    assert "near-duplicate in training: 3, without these the accuracy is 0.6000." in text
    assert "in two splits: 4." in text
    assert "Exact copies among the images found: 2." in text
    assert "under two classes: 1." in text
    assert "contradicts: 2." in text
    assert "no usable images: 1 of 41." in text
    assert "only on images like those in photos." in text
    clean = limits(
        measured=MEASURED._replace(confusion=np.array([[12, 0], [0, 4]]), leaked=0),
        audit=Audit(Work(), 0, 0, 0),
        examples=replace(EXAMPLES, rejected=0, duplicates=0, label_conflicts=0),
    )
    for word in ("beyond chance", "near-duplicate", "splits", "copies", "two classes", "contradicts", "usable"):
        assert word not in clean


def test_what_it_takes_and_when_it_abstains_follow_from_the_export():
    assert "answers one of its classes for any image" in limits()
    chosen = {"threshold": 0.75, "wanted": 0.9, "images": 40, "answered": 30, "precision": 0.95, "low": 0.8, "high": 1}
    assert "below a probability of 0.7500" in limits(facts={**FACTS, "abstention": chosen})
    assert "abstains always" in limits(facts={**FACTS, "abstention": {**chosen, "threshold": 2.0}})
    assert "takes JPEG" in limits()
    assert "takes bottlenecks of 1280 numbers" in limits(backbones=[Spec(bottlenecks="made")])


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


def test_a_class_that_is_never_predicted_has_no_precision():
    card = make_card()
    metric = find(card, "precision", {"class": "b"})
    assert (metric["value"], metric["images"]) == (None, 0)
    assert ("precision, class b", "not measured") in describe_card(card)[-1].rows


def test_the_description_survives_json(card):
    for one in (card, make_card(reasons=["loss is 9"])):
        again = json.loads(json.dumps(one))
        assert again == one
        assert describe_card(again) == describe_card(one)
    titles = [section.title for section in describe_card(card)]
    assert titles == ["Model", "Intended use", "Limits", "Data", "Test split"]
    assert "Not blessed: loss is 9." in describe_card(make_card(reasons=["loss is 9"]))[0].sentences


def test_the_export_lies_as_tensorflow_serving_looks_for_it(export):
    # <model>/<version>/saved_model.pb with a number as version: tensorflow.org/tfx/serving/serving_config
    assert export.name.isdecimal() and export.parent.name == "export"
    assert (export / "saved_model.pb").is_file() and (export / "variables" / "variables.index").is_file()
    tool = Path(sys.executable).parent / "saved_model_cli"
    shown = subprocess.run([str(tool), "show", "--dir", str(export), "--all"], capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    assert "signature_def['serving_default']" in shown.stdout and "inputs['image_bytes']" in shown.stdout
