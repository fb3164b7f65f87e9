import csv
import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, log_loss, top_k_accuracy_score

from components import features
from components.evaluate import evaluate_model, find_baseline, find_last_blessed
from components.export import list_versions
from components.features import Bottlenecks, Examples, Export, Head, Work
from components.head_input import evaluate_from_memory
from components.model import Architecture
from components.model_analysis import read_confusion, read_metrics, read_slice_metrics
from components.shards import read_bottlenecks, shard_files
from components.train import load_classifier


@pytest.fixture(scope="module")
def outcomes(toy_run):
    def read(stage, kind):
        values = json.loads((toy_run.stages / f"{stage}.json").read_text())["outcome"]
        return kind(**{**values, "work": Work(**values["work"])})

    return read("ingest", Examples), read("extract", Bottlenecks), read("export", Export)


@pytest.fixture(scope="module")
def test_table(toy_run, outcomes):
    examples, bottlenecks, _ = outcomes
    return read_bottlenecks(
        shard_files(toy_run.bottlenecks(bottlenecks.backbone_id), "test", examples.shards), bottlenecks.dim
    )


@pytest.fixture(scope="module")
def predicted(toy_run, outcomes, test_table):
    head = Head(Work(), 0, 0.0, 0.0, 0.0)  # only its folder is read
    classifier = load_classifier(outcomes[0], head, toy_run, Architecture(), 0)
    predictions = list(classifier.predict(evaluate_from_memory(test_table.vectors, test_table.labels).input_fn))
    probabilities = np.array([prediction["probabilities"] for prediction in predictions], np.float64)
    return classifier, probabilities / probabilities.sum(1, keepdims=True)


def test_tfma_the_estimator_and_the_confusion_matrix_agree(toy_run, test_table, predicted):
    classifier, probabilities = predicted
    metrics = read_metrics(toy_run.evaluation)
    estimated = classifier.evaluate(evaluate_from_memory(test_table.vectors, test_table.labels).input_fn)
    confusion = read_confusion(toy_run.evaluation, 3)
    assert metrics["accuracy"] == pytest.approx(estimated["accuracy"], abs=1e-6)
    assert metrics["accuracy"] == pytest.approx(np.trace(confusion) / confusion.sum(), abs=1e-6)
    np.testing.assert_array_equal(confusion, confusion_matrix(test_table.labels, probabilities.argmax(1)))
    assert metrics["loss"] == pytest.approx(log_loss(test_table.labels, probabilities), abs=1e-5)
    assert metrics["top5"] == pytest.approx(top_k_accuracy_score(test_table.labels, probabilities, k=3))


@pytest.mark.parametrize("feature", [features.TEXT, features.SOURCE])
def test_slices_agree_with_a_plain_count(toy_run, test_table, predicted, feature):
    values = np.array(test_table.texts if feature == features.TEXT else test_table.sources)
    right = predicted[1].argmax(1) == test_table.labels
    slices = read_slice_metrics(toy_run.evaluation, feature)
    assert set(slices) == set(values)
    for value, row in slices.items():
        assert row["count"] == (values == value).sum()
        assert row["accuracy"] == pytest.approx(right[values == value].mean(), abs=1e-6)


def test_predictions_have_a_row_for_every_test_image_in_order(toy_run, test_table):
    with toy_run.predictions.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == sorted(test_table.keys)
    assert list(rows[0])[:4] == ["path", "label", "probability", "index"]


def test_a_blessed_model_leaves_its_mark_in_both_places(toy_run):
    assert (toy_run.evaluation / "BLESSED").exists()
    (version,) = list_versions(toy_run.exports)
    assert json.loads((version / "BLESSED").read_text())["reasons"] == []


@pytest.fixture
def judge(toy_run, outcomes, options, tmp_path):
    """Evaluate the toy run's export again in a copy of the run, with other limits."""
    copy = features.RunDir(tmp_path / "run")
    __import__("shutil").copytree(toy_run.root, copy.root)

    def run(thresholds, drop=None, export=None):
        return evaluate_model(*outcomes[:2], export or outcomes[2], copy, thresholds, drop, options)

    return copy, run


def test_without_thresholds_nothing_is_blessed(judge):
    copy, run = judge
    outcome = run({})
    assert not outcome.blessed
    assert "no thresholds" in outcome.reasons[0]
    assert (copy.evaluation / "NOT_BLESSED").exists() and not (copy.evaluation / "BLESSED").exists()


def test_a_model_that_stricter_limits_refuse_is_no_longer_the_last_blessed_one(judge):
    copy, run = judge
    (version,) = list_versions(copy.exports)
    assert (version / "BLESSED").exists()
    assert not run({"loss": 1e-9}).blessed
    assert find_last_blessed(copy.exports, copy.exports / "99999999999") is None


def test_a_missed_threshold_is_named_with_what_was_reached(judge):
    _, run = judge
    outcome = run({"accuracy": 1.0, "loss": 0.0001, "top5": 0.5})
    assert not outcome.blessed
    assert any("loss is" in reason and "at most 0.0001" in reason for reason in outcome.reasons)
    assert not any("top5" in reason for reason in outcome.reasons)


def test_without_a_baseline_no_drop_is_checked(judge):
    copy, run = judge
    assert find_baseline(copy.exports, list_versions(copy.exports)[0]) is None
    assert run({}, drop=0.0).blessed


def spoil(export: Path, target: Path):
    """Copy an export with its classes' weights turned round, so that it predicts badly."""
    import shutil

    import tensorflow as tf

    shutil.copytree(export, target)
    (target / "BLESSED").unlink(missing_ok=True)
    checkpoint = str(target / "variables" / "variables")
    reader = tf.train.load_checkpoint(checkpoint)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        variables = []
        for name in reader.get_variable_to_shape_map():
            value = reader.get_tensor(name)
            value = value[..., ::-1] if name.startswith("final_training_ops") else value
            variables.append(tf.compat.v1.get_variable(name, initializer=value, use_resource=False))
        session.run(tf.compat.v1.global_variables_initializer())
        tf.compat.v1.train.Saver(variables).save(session, checkpoint, write_meta_graph=False, write_state=False)


def test_a_worse_model_is_refused_against_the_last_blessed_one_and_a_better_one_is_not(judge):
    copy, run = judge
    good = list_versions(copy.exports)[0]
    spoil(good, copy.exports / "99999999999")
    worse = run({}, drop=0.1, export=Export(Work(), "99999999999"))
    assert not worse.blessed
    assert f"against export {good.name}" in worse.reasons[0]
    assert run({"accuracy": 0.5}, drop=0.1).blessed
