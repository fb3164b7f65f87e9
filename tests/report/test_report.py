import csv
import json
import math
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.backbones.spec import parse_backbone
from components.metrics.calibration import NEVER_ANSWERS, Abstention
from components.outcomes import Audit, Bottlenecks, Evaluation, Examples, Export, Head, Results, Validation, Work
from components.pages.figures import plot_calibration, plot_coverage
from components.report.reliability import collect_reliability
from components.report.report import choose_listed, write_report
from components.run_dir import RunDir


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


def test_the_calibration_error_is_that_of_the_predictions(toy_run):
    predictions = read_csv(toy_run.predictions)
    bins = {}
    for row in predictions:
        probability = float(row["probability"])
        bins.setdefault(math.ceil(15 * probability), []).append((row["label"] == row["actual"], probability))
    gaps = [
        abs(sum(right for right, _ in rows) - sum(probability for _, probability in rows)) for rows in bins.values()
    ]
    summary = json.loads((toy_run.report / "summary.json").read_text())
    assert summary["calibration"]["ece"] == pytest.approx(sum(gaps) / len(predictions))
    assert summary["abstention"] is None
    page = (toy_run.report / "index.html").read_text()
    assert "<h2>Coverage and calibration</h2>" in page and "Reliability diagram" in page
    assert f"expected calibration error is {100 * summary['calibration']['ece']:.1f}&nbsp;%" in page


CHOSEN = Abstention(0.7, 0.9, 20, 10, 1.0, 0.69, 1.0)
NEVER = Abstention(NEVER_ANSWERS, 0.9, 20, 0, None, 0.0, 1.0)
PREDICTIONS = [
    {"probability": probability, "label": label, "actual": "a"}
    for probability, label in (("0.9", "a"), ("0.9", "a"), ("0.8", "b"), ("0.7", "a"), ("0.6", "b"))
]


def test_a_chosen_threshold_is_measured_on_the_test_split_and_marked_on_the_curve():
    reliability = collect_reliability(PREDICTIONS, CHOSEN)
    abstention = reliability.summary()["abstention"]
    assert (abstention["threshold"], abstention["wanted"]) == (0.7, 0.9)
    assert abstention["validation"] == {
        "images": 20, "answered": 10, "coverage": 0.5, "precision": 1.0, "low": 0.69, "high": 1.0
    }  # fmt: skip
    test = abstention["test"]
    assert (test["images"], test["answered"], test["coverage"], test["precision"]) == (5, 4, 0.8, 0.75)
    assert test["low"] < 0.75 < test["high"]
    curve, marker = plot_coverage(reliability).data
    assert (list(curve.x), list(curve.customdata)) == ([0.4, 0.6, 0.8, 1.0], [0.9, 0.8, 0.7, 0.6])
    np.testing.assert_allclose(curve.y, [1, 2 / 3, 0.75, 0.6])
    assert (marker.x, marker.y, marker.customdata) == ((0.8,), (0.75,), (0.7,))


def test_no_threshold_is_marked_where_none_was_chosen_or_nothing_is_answered():
    for abstention in (None, NEVER):
        (curve,) = plot_coverage(collect_reliability(PREDICTIONS, abstention)).data
        assert curve.name == "test split"
    assert collect_reliability(PREDICTIONS, NEVER).summary()["abstention"]["test"]["precision"] is None


def test_the_dots_of_the_reliability_diagram_are_as_large_as_their_bins():
    _, dots = plot_calibration(collect_reliability(PREDICTIONS, None).bins).data
    assert list(dots.marker.size) == [1, 1, 1, 2]
    np.testing.assert_allclose(dots.x, [0.6, 0.7, 0.8, 0.9])
    np.testing.assert_allclose(dots.y, [0, 1, 0, 1])


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc"), st.integers(0, 9)), max_size=60))
def test_what_a_page_lists_of_too_many_images_is_the_most_probable_of_each_cell(found):
    rows = [{"actual": actual, "label": label, "probability": f"0.{digit}"} for actual, label, digit in found]
    listed = choose_listed(rows, 20)
    assert listed == sorted(set(listed)) and len(listed) == min(20, len(rows))
    assert choose_listed(rows, 100) == list(range(len(rows)))
    left_out = set(range(len(rows))) - set(listed)
    for cell in {row[:2] for row in found}:
        of_cell = {number for number, row in enumerate(found) if row[:2] == cell}
        here, there = of_cell & set(listed), of_cell & left_out
        if there:
            assert here and min(found[row][2] for row in here) >= max(found[row][2] for row in there)
            # No other cell is given more than one image beyond what this one has.
            sizes = [sum(found[row][:2] == other for row in listed) for other in {row[:2] for row in found}]
            assert max(sizes) <= len(here) + 1


def report_again(run, monkeypatch, abstention=None, **changes):
    """Write the report of a finished run once more, with other values in the outcomes of stages; return its page."""

    def read(stage, kind):
        values = json.loads((run.stages / f"{stage}.json").read_text())["outcome"]
        return replace(kind(**{**values, "work": Work(**values["work"])}), **changes.get(stage, {}))

    kinds = {
        "ingest": Examples,
        "validate": Validation,
        "extract": Bottlenecks,
        "audit": Audit,
        "train": Head,
        "export": Export,
        "evaluate": Evaluation,
    }
    record = json.loads(run.record.read_text())
    monkeypatch.setattr("components.report.measured.read_abstention", lambda export: abstention)
    results = Results(*(read(stage, kind) for stage, kind in kinds.items()))
    specs = parse_backbone("efficientnet_lite0")
    write_report(results, specs, record["config"], run.curve_rows, run, record["stages"])
    return (run.report / "index.html").read_text()


def test_the_page_says_what_the_threshold_does(copied, monkeypatch):
    run = copied
    predictions = read_csv(run.predictions)
    probabilities = [float(row["probability"]) for row in predictions]
    threshold = float(np.median(probabilities))
    answered = sum(probability >= threshold for probability in probabilities)
    page = report_again(run, monkeypatch, replace(CHOSEN, threshold=threshold))
    assert "10 of 20 images are answered (50.0&nbsp;%), 100.0&nbsp;% of them rightly" in page
    assert 0 < answered < len(predictions)
    assert f"on the test split {answered} of {len(predictions)} images are answered" in page
    nothing = f"on the test split 0 of {len(predictions)} images are answered (0.0&nbsp;%)."
    assert nothing in report_again(run, monkeypatch, replace(CHOSEN, threshold=max(probabilities) + 1e-6))
    assert "The model abstains from every image" in report_again(run, monkeypatch, NEVER)


@pytest.fixture
def copied(toy_run, tmp_path):
    return RunDir(Path(shutil.copytree(toy_run.root, tmp_path / "run")))


@pytest.mark.parametrize(
    ("evaluation", "title", "colour"),
    [
        ({}, "BLESSED", "good"),
        ({"reasons": ["first of its kind"]}, "BLESSED (nothing was compared)", "soft"),
        ({"reasons": ["first of its kind"], "blessed": False}, "NOT BLESSED", "bad"),
        ({"reasons": ["first of its kind"], "blessed": False, "gated": False}, "NOT GATED", "soft"),
    ],
)
def test_the_page_begins_with_the_verdict_and_its_reason(copied, evaluation, title, colour, monkeypatch):
    page = report_again(copied, monkeypatch, evaluate=evaluation)
    assert f'<span class="badge" style="background: var(--{colour})">{title}</span>' in page
    assert ("first of its kind</p>" in page) == bool(evaluation)
    assert json.loads((copied.report / "summary.json").read_text())["verdict"] == title


def test_the_page_says_what_the_verdict_leaves_open(copied, monkeypatch):
    paths = [row["path"] for row in read_csv(copied.predictions)]
    (copied.audit / "leaks.csv").write_text("\n".join(["path", *paths[:5]]))
    page = report_again(copied, monkeypatch, evaluate={"warnings": ["The model never answers 'cyan'."]})
    right = [row["label"] == row["actual"] for row in read_csv(copied.predictions)]
    without = f"with them the accuracy is {np.mean(right):.4f}, without them {np.mean(right[5:]):.4f}."
    verdict = page[page.index('<section id="verdict">') : page.index('<section id="learning">')]
    assert without in verdict and "The model never answers &#39;cyan&#39;." in verdict


def test_tables_that_hold_a_part_say_so(copied, monkeypatch):
    pair = "0.9500,a.png,cyan,train,b.png,cyan,train,copy"
    header = "cosine,path,label,split,other_path,other_label,other_split,kind"
    (copied.audit / "near_duplicates.csv").write_text("\n".join([header, *[pair] * 30]))
    page = report_again(copied, monkeypatch, audit={"near_duplicates": 11_175})
    assert (
        "11,175 pairs of images are alike by their bottlenecks; 24 are shown, the closest 30 of 11,175 are in" in page
    )
    page = report_again(copied, monkeypatch, audit={"near_duplicates": 30})
    assert (
        "30 pairs of images are alike by their bottlenecks; 24 are shown, all are in audit/near_duplicates.csv" in page
    )
    copied.rejects.write_text(json.dumps({"key": "x", "reason": "corrupt", "detail": ""}) + "\n")
    copied.rejects.write_text(copied.rejects.read_text() * 300)
    page = report_again(copied, monkeypatch, ingest={"rejected": 300})
    assert "200 are shown, all are in examples/rejects.jsonl." in page
    copy = "label_conflict,c.png,cyan,d.png,magenta,kept,00"
    header = "kind,key,label,copy_of,copy_of_label,action,sha256"
    copied.duplicates.write_text("\n".join([header, *[copy] * 25]))
    assert "24 of 25 pairs are shown, all are in examples/duplicates.csv." in report_again(copied, monkeypatch)


def test_names_are_text_wherever_they_stand(tmp_path, toy_config, toy_backbone):
    from toys import paint_images, write_config

    from pipeline.cli import main

    images = paint_images(tmp_path / "images", per_class=20)
    hostile = "<img src=x onerror=alert(1)>"
    (images / "cyan").rename(images / hostile)
    for path in sorted((images / "magenta").rglob("*"), reverse=True):  # files before their folders, the sources
        path.rename(path.with_name(os.fsdecode(b"\xff") + path.name))
    config = {**toy_config, "data": {"path": str(images)}, "output_dir": str(tmp_path / "run")}
    assert main(["run", str(write_config(tmp_path / "c.yaml", **config))]) in (0, 3)
    page = (tmp_path / "run" / "report" / "index.html").read_text()
    assert hostile not in page[page.index("<body>") :]
    assert "&lt;img src=x" in page
    # Names that are not Unicode stand there with escapes, in the tables too, and have their pictures.
    pictures = json.loads(re.search(r'id="pictures">(.*?)</script>', page)[1])
    rows = read_csv(tmp_path / "run" / "evaluation" / "predictions.csv")
    odd = [row["path"] for row in rows if row["actual"] == "magenta"]
    assert len(odd) == 4 and all("\\udcff" in path and path in pictures for path in odd)
