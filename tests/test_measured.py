import json

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, confusion_matrix

from components.features import Evaluation, Examples, Export, Work
from components.measured import accuracy_of, leaked_tests, read_measured
from components.tables import read_csv


def pair(path, split, other_path, other_split):
    return {"path": path, "split": split, "other_path": other_path, "other_split": other_split}


def test_a_test_image_leaks_when_its_twin_was_trained_on_whichever_stands_first():
    pairs = [
        pair("a", "train", "b", "test"),
        pair("c", "test", "d", "train"),
        pair("e", "test", "f", "test"),
        pair("g", "train", "h", "val"),
    ]
    assert leaked_tests(pairs) == {"b", "c"}


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
