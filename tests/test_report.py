import csv
import json
import re

import numpy as np
import pytest
from sklearn.metrics import precision_recall_fscore_support

from components.report import most_confused, plot_confusion, score_classes


@pytest.fixture
def confusion():
    random = np.random.default_rng(0)
    matrix = random.integers(0, 9, (6, 6))
    matrix[:, 4] = 0  # a class that is never predicted
    matrix[5] = 0  # a class without test images
    return matrix


def test_class_scores_are_those_of_scikit_learn(confusion):
    actual, predicted = np.nonzero(confusion)
    counts = confusion[actual, predicted]
    expected = precision_recall_fscore_support(
        np.repeat(actual, counts), np.repeat(predicted, counts), labels=range(6), zero_division=0
    )
    rows = score_classes(confusion, list("abcdef"))
    np.testing.assert_allclose(np.array([row[1:] for row in rows]).T, np.array(expected))


def test_most_confused_pairs_are_off_the_diagonal_largest_first():
    pairs = most_confused(np.array([[90, 1, 5], [0, 80, 2], [7, 0, 70]]), list("abc"), 3)
    assert [(pair["actual"], pair["predicted"], pair["count"]) for pair in pairs] == [
        ("c", "a", 7),
        ("a", "c", 5),
        ("b", "c", 2),
    ]


def read_csv(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_files_agree_with_the_predictions(toy_run):
    predictions = read_csv(toy_run.predictions)
    mistakes = read_csv(toy_run.report / "mistakes.csv")
    assert sorted(row["path"] for row in mistakes) == sorted(
        row["path"] for row in predictions if row["label"] != row["actual"]
    )
    for row in read_csv(toy_run.report / "confusion.csv"):
        for label in ("cyan", "magenta", "yellow"):
            same = [p for p in predictions if (p["actual"], p["label"]) == (row["actual"], label)]
            assert int(row[label]) == len(same)
    classes = read_csv(toy_run.report / "classes.csv")
    assert sum(int(row["support"]) for row in classes) == len(predictions)
    assert len(read_csv(toy_run.report / "history.csv")) == 8
    summary = json.loads((toy_run.report / "summary.json").read_text())
    assert summary["metrics"] == json.loads(toy_run.record.read_text())["metrics"]


def test_the_page_is_self_contained_and_shows_images_and_names(toy_run):
    page = (toy_run.report / "index.html").read_text()
    body = page[page.index("<body>") :]
    assert body.count("data:image/jpeg;base64,") >= 9
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=[\"']?https?:", page)
    assert "BLESSED" in body and "magenta" in body and "broken.jpg" in body


def test_names_are_text_wherever_they_stand(tmp_path, toy_config, toy_backbone):
    from conftest import paint_images, write_config

    from pipeline.cli import main

    images = paint_images(tmp_path / "images", per_class=20)
    hostile = "<img src=x onerror=alert(1)>"
    (images / "cyan").rename(images / hostile)
    config = {**toy_config, "data": {"path": str(images)}, "output_dir": str(tmp_path / "run")}
    assert main(["run", str(write_config(tmp_path / "c.yaml", **config))]) in (0, 3)
    page = (tmp_path / "run" / "report" / "index.html").read_text()
    assert hostile not in page[page.index("<body>") :]
    assert "&lt;img src=x" in page


def test_the_cells_of_the_confusion_picture_show_their_counts():
    (heatmap,) = plot_confusion(np.array([[3, 1], [0, 4]]), ["a", "b"]).data
    assert heatmap.texttemplate == "%{text}" and "%{text} images" in heatmap.hovertemplate
    assert [list(row) for row in heatmap.text] == [["3", "1"], ["0", "4"]]
    np.testing.assert_allclose(heatmap.z, [[0.75, 0.25], [0, 1]])
