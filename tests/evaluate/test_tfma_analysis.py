import numpy as np
import pandas as pd
import pytest
import tensorflow_model_analysis as tfma
from sklearn.metrics import accuracy_score, confusion_matrix, log_loss, top_k_accuracy_score

from components import features
from components.evaluate.tfma_analysis import (
    describe_failures,
    make_eval_config,
    read_confusion,
    read_metrics,
    read_slice_metrics,
)


def measure(folder, labels, probabilities, thresholds=()):
    """Let TFMA measure predictions, of images that are all of one source, and return what it refuses."""
    table = pd.DataFrame({features.LABEL: labels, features.SOURCE: "here"})
    table[features.TEXT] = [f"class {label}" for label in labels]
    table[features.PROBABILITIES] = [*np.asarray(probabilities, np.float32)]
    tfma.analyze_raw_data(table, make_eval_config(dict(thresholds), None), str(folder))
    return describe_failures(tfma.load_validation_result(str(folder)), None)


@pytest.mark.parametrize("classes", [3, 20])
def test_metrics_agree_with_scikit_learn(tmp_path, classes):
    random = np.random.default_rng(0)
    labels, probabilities = random.integers(0, classes, 500), random.dirichlet(np.ones(classes) / 2, 500)
    probabilities = np.clip(probabilities, 1e-6, 1).astype(np.float32).astype(np.float64)
    assert measure(tmp_path, labels, probabilities) == []

    def expected(rows):
        named, chosen, every = labels[rows], probabilities[rows], range(classes)
        top5 = top_k_accuracy_score(named, chosen, k=5, labels=every) if classes > 5 else 1
        loss = log_loss(named, chosen / chosen.sum(1, keepdims=True), labels=every)
        return {"accuracy": accuracy_score(named, chosen.argmax(1)), "top5": top5, "loss": loss}

    assert read_metrics(tmp_path) == pytest.approx(expected(labels >= 0), abs=1e-6)
    slices = read_slice_metrics(tmp_path, features.TEXT)
    assert len(slices) == classes
    for name, values in slices.items():
        rows = labels == int(name.removeprefix("class "))
        assert values == pytest.approx({"count": rows.sum(), **expected(rows)}, abs=1e-6)
    assert read_slice_metrics(tmp_path, features.SOURCE)["here"] == {"count": 500, **read_metrics(tmp_path)}
    matrix = confusion_matrix(labels, probabilities.argmax(1), labels=range(classes))
    np.testing.assert_array_equal(read_confusion(tmp_path, classes), matrix)


def test_ties_go_to_the_first_class_and_count_as_among_the_first_five(tmp_path):
    even, falling = np.full(7, 1 / 7), np.arange(7)[::-1] / 21
    measure(tmp_path, [0, 1, 6, 5], [even, even, even, falling])
    assert read_metrics(tmp_path)["accuracy"] == 0.25 and read_metrics(tmp_path)["top5"] == 0.75
    assert read_confusion(tmp_path, 7)[:, 0].tolist() == [1, 1, 0, 0, 0, 1, 1]


def test_a_probability_of_zero_is_no_infinite_loss(tmp_path):
    measure(tmp_path, [1], [[1, 0]])
    assert read_metrics(tmp_path)["loss"] == pytest.approx(-np.log(1e-7), abs=1e-5)


def test_a_threshold_that_is_just_reached_is_met(tmp_path):
    labels, probabilities = [0] * 9 + [6], [np.arange(7)[::-1] / 21] * 10
    assert measure(tmp_path, labels, probabilities, {"accuracy": 0.9, "top5": 0.9}) == []
    assert measure(tmp_path, labels, probabilities, {"accuracy": 0.901, "top5": 0.9001}) == [
        "accuracy is 0.9000, at least 0.901 was asked for",
        "top5 is 0.9000, at least 0.9001 was asked for",
    ]
