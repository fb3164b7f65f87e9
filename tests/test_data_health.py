import pytest

from components.data_health import accuracy_of, collect_health, leaked_tests
from components.features import Audit, Examples, Validation, Work
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


def test_the_health_of_a_run_agrees_with_its_files(toy_run):
    import json

    outcome = json.loads((toy_run.stages / "ingest.json").read_text())["outcome"]
    examples = Examples(**{**outcome, "work": Work()})
    audit = json.loads((toy_run.stages / "audit.json").read_text())["outcome"]
    predictions = read_csv(toy_run.predictions)
    health = collect_health(
        examples, Validation(Work(), ["noted"]), Audit(**{**audit, "work": Work()}), predictions, toy_run
    )
    assert sum(health.reasons.values()) == examples.rejected == 1
    assert health.rejects[0]["key"] == "cyan/broken.jpg"
    assert health.warnings[-1] == "noted"
    pairs = read_csv(toy_run.audit / "near_duplicates.csv")
    assert health.near_duplicates_count == len(pairs)
    assert health.accuracy_without_leaks == pytest.approx(
        accuracy_of(row for row in predictions if row["path"] not in leaked_tests(pairs))
    )
