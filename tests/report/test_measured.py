import json

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, confusion_matrix

from components.outcomes import Evaluation, Examples, Export, Work
from components.report.measured import Measured, accuracy_of, describe_leaks, read_measured
from components.report.reliability import collect_reliability
from components.storage.tables import read_csv


@pytest.mark.parametrize(
    ("leaked", "without", "sentences"),
    [
        (0, 0.9, []),
        (1, 0.5, ["1 test image has a near-duplicate in the train split (audit/leaks.csv): with it the accuracy is "
                  "0.9000, without it 0.5000."]),
        (1200, 0.5, ["1,200 test images have a near-duplicate in the train split (audit/leaks.csv): with them the "
                     "accuracy is 0.9000, without them 0.5000."]),
        (3, None, ["3 test images have a near-duplicate in the train split (audit/leaks.csv): with them the accuracy "
                   "is 0.9000, no other is left to measure."]),
    ],
)  # fmt: skip
def test_the_accuracy_without_test_images_like_training_is_told(leaked, without, sentences):
    reliability = collect_reliability([{"probability": "0.9", "label": "a", "actual": "a"}], None)
    measured = Measured([], np.eye(2), {"accuracy": 0.9}, {}, reliability, leaked, without)
    assert describe_leaks(measured) == sentences


def test_accuracy_is_the_share_that_is_right():
    assert accuracy_of([{"label": "a", "actual": "a"}, {"label": "a", "actual": "b"}]) == 0.5
    assert accuracy_of([]) is None


def test_what_is_read_of_a_run_agrees_with_scikit_learn_on_its_predictions(toy_run):
    kinds = {"ingest": Examples, "export": Export, "evaluate": Evaluation}
    outcomes = [
        kind(**{**json.loads((toy_run.stages / f"{stage}.json").read_text())["outcome"], "work": Work()})
        for stage, kind in kinds.items()
    ]
    measured = read_measured(*outcomes, toy_run)
    rows = read_csv(toy_run.predictions)
    actual, predicted = ([row[name] for row in rows] for name in ("actual", "label"))
    assert measured.predictions == rows
    np.testing.assert_array_equal(measured.confusion, confusion_matrix(actual, predicted, labels=outcomes[0].labels))
    assert measured.metrics["accuracy"] == pytest.approx(accuracy_score(actual, predicted))
    assert {source: row["count"] for source, row in measured.sources.items()} == {
        source: sum(row["source"] == source for row in rows) for source in ("", "camera", "phone")
    }
    leaked = {
        pair[f"{side}path"]
        for pair in read_csv(toy_run.audit / "near_duplicates.csv")
        for side, other in (("", "other_"), ("other_", ""))
        if (pair[f"{side}split"], pair[f"{other}split"]) == ("test", "train")
    }
    assert measured.leaked == len(leaked)
    assert measured.accuracy_without_leaks == accuracy_of(row for row in rows if row["path"] not in leaked)
