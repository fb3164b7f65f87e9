import numpy as np
import pytest
from cards import make_content, read_results
from sklearn.metrics import accuracy_score, confusion_matrix

from components.metrics.calibration import NEVER_ANSWERS, Abstention
from components.outcomes import Evaluation, Work
from components.report.content import accuracy_of, describe_leaks, measure_reliability, read_health, read_report_content
from components.storage.tables import read_csv


@pytest.mark.parametrize(
    ("leaked", "without", "sentences"),
    [
        (0, 0.9, []),
        (1, 0.5, ["1 test image has a near-duplicate in the train or val split (audit/leaks.csv): with it the accuracy "
                  "is 0.9000, without it 0.5000."]),
        (1200, 0.5, ["1,200 test images have a near-duplicate in the train or val split (audit/leaks.csv): with them "
                     "the accuracy is 0.9000, without them 0.5000."]),
        (3, None, ["3 test images have a near-duplicate in the train or val split (audit/leaks.csv): with them the "
                   "accuracy is 0.9000, no other is left to measure."]),
    ],
)  # fmt: skip
def test_the_accuracy_without_test_images_like_training_is_told(leaked, without, sentences):
    outcomes = {"evaluation": Evaluation(Work(), {"accuracy": 0.9}, True, True, [], "", [])}
    assert describe_leaks(make_content(outcomes, leaked=leaked, accuracy_without_leaks=without)) == sentences


def test_accuracy_is_the_share_that_is_right():
    assert accuracy_of([{"label": "a", "actual": "a"}, {"label": "a", "actual": "b"}]) == 0.5
    assert accuracy_of([]) is None


def test_what_is_read_of_a_run_agrees_with_scikit_learn_on_its_predictions(toy_run):
    content = read_report_content(read_results(toy_run), toy_run)
    rows = read_csv(toy_run.predictions)
    actual, predicted = ([row[name] for row in rows] for name in ("actual", "label"))
    assert content.predictions == rows
    np.testing.assert_array_equal(
        content.confusion, confusion_matrix(actual, predicted, labels=content.results.examples.labels)
    )
    assert content.results.evaluation.metrics["accuracy"] == pytest.approx(accuracy_score(actual, predicted))
    assert {source: row["count"] for source, row in content.sources.items()} == {
        source: sum(row["source"] == source for row in rows) for source in ("", "camera", "phone")
    }
    leaked = {
        pair[f"{side}path"]
        for pair in read_csv(toy_run.audit / "near_duplicates.csv")
        for side, other in (("", "other_"), ("other_", ""))
        if (pair[f"{side}split"], pair[f"{other}split"]) == ("test", "train")
    }
    assert content.leaked == len(leaked)
    assert content.accuracy_without_leaks == accuracy_of(row for row in rows if row["path"] not in leaked)


def test_the_health_of_a_run_agrees_with_its_files(toy_run):
    examples = read_results(toy_run).examples
    health = read_health(toy_run)
    assert sum(health.reasons.values()) == health.rejects.total == examples.rejected == 1
    assert health.rejects.shown[0]["key"] == "cyan/broken.jpg"
    pairs = read_csv(toy_run.audit / "near_duplicates.csv")
    assert health.near_duplicates.total == len(pairs)
    assert health.conflicts.total == len(health.conflicts.shown) == 0


CHOSEN = Abstention(0.7, 0.9, 20, 10, 1.0, 0.69, 1.0)
NEVER = Abstention(NEVER_ANSWERS, 0.9, 20, 0, None, 0.0, 1.0)
PREDICTIONS = [
    {"probability": probability, "label": label, "actual": "a"}
    for probability, label in (("0.9", "a"), ("0.9", "a"), ("0.8", "b"), ("0.7", "a"), ("0.6", "b"))
]


def test_a_chosen_threshold_is_measured_on_the_test_split():
    reliability = measure_reliability(PREDICTIONS, CHOSEN)
    abstention = reliability.summary()["abstention"]
    assert (abstention["threshold"], abstention["wanted"]) == (0.7, 0.9)
    assert abstention["validation"] == {
        "images": 20, "answered": 10, "coverage": 0.5, "precision": 1.0, "low": 0.69, "high": 1.0
    }  # fmt: skip
    test = abstention["test"]
    assert (test["images"], test["answered"], test["coverage"], test["precision"]) == (5, 4, 0.8, 0.75)
    assert test["low"] < 0.75 < test["high"]
    assert measure_reliability(PREDICTIONS, NEVER).summary()["abstention"]["test"]["precision"] is None
    assert measure_reliability(PREDICTIONS, None).summary()["abstention"] is None
