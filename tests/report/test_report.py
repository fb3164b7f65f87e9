import csv
import json
import math
import os
import platform
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from cards import read_results
from hypothesis import given
from hypothesis import strategies as st

from components.backbones.spec import parse_backbone
from components.export.versions import list_versions
from components.metrics.calibration import NEVER_ANSWERS
from components.report import report
from components.report.page_data import choose_listed
from components.report.report import write_report
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
    assert len(read_csv(toy_run.report / "history.csv")) == 9  # the first is the start
    summary = json.loads((toy_run.report / "summary.json").read_text())
    assert summary["metrics"] == json.loads(toy_run.record.read_text())["metrics"]


def test_the_page_says_which_head_its_curves_are_of(toy_run):
    page = (toy_run.report / "index.html").read_text()
    assert "The exported head was trained again on the train and val splits" in page
    (card,) = toy_run.exports.glob("*/model_card.json")
    counts = json.loads(toy_run.record.read_text())["counts"]
    overview = json.loads(card.read_text())["model_details"]["overview"]
    assert f"trained on {counts['train'] + counts['val']:,} images" in overview


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


def report_again(run, **changes):
    """Write the report of a finished run once more, with other values in the outcomes of stages; return its page."""
    record = json.loads(run.record.read_text())
    specs = parse_backbone("efficientnet_lite0")
    write_report(read_results(run, **changes), specs, record["config"], run.curve_rows, run, record["stages"])
    return (run.report / "index.html").read_text()


def report_abstaining(run, **changes):
    """Write the report of a finished run once more, with a threshold in the facts of its export."""
    path = list_versions(run.exports)[-1] / "model_card.json"
    chosen = {"threshold": 0.7, "wanted": 0.9, "images": 20, "answered": 10, "precision": 1.0, "low": 0.69, "high": 1.0}
    card = {**json.loads(path.read_text()), "abstention": {**chosen, **changes}}
    path.write_text(json.dumps(card))
    return report_again(run)


def test_the_page_says_what_the_threshold_does(copied):
    run = copied
    predictions = read_csv(run.predictions)
    probabilities = [float(row["probability"]) for row in predictions]
    threshold = float(np.median(probabilities))
    answered = sum(probability >= threshold for probability in probabilities)
    page = report_abstaining(run, threshold=threshold)
    assert "10 of 20 images have an answer (50.0&nbsp;%), 100.0&nbsp;% of them correct" in page
    assert 0 < answered < len(predictions)
    assert f"on the test split {answered} of {len(predictions)} images have an answer" in page
    nothing = f"on the test split 0 of {len(predictions)} images have an answer (0.0&nbsp;%)."
    assert nothing in report_abstaining(run, threshold=max(probabilities) + 1e-6)
    assert "The model abstains from every image" in report_abstaining(run, threshold=NEVER_ANSWERS, answered=0)


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
def test_the_page_begins_with_the_verdict_and_its_reason(copied, evaluation, title, colour):
    page = report_again(copied, evaluate=evaluation)
    assert f'<span class="badge" style="background: var(--{colour})">{title}</span>' in page
    assert ("first of its kind</p>" in page) == bool(evaluation)
    assert json.loads((copied.report / "summary.json").read_text())["verdict"] == title


def test_the_page_says_what_the_verdict_leaves_open(copied):
    paths = [row["path"] for row in read_csv(copied.predictions)]
    (copied.audit / "leaks.csv").write_text("\n".join(["path", *paths[:5]]))
    warnings = {"evaluate": {"warnings": ["The model never answers 'cyan'."]}, "validate": {"warnings": ["noted"]}}
    page = report_again(copied, **warnings)
    right = [row["label"] == row["actual"] for row in read_csv(copied.predictions)]
    without = f"with them the accuracy is {np.mean(right):.4f}, without them {np.mean(right[5:]):.4f}."
    verdict = page[page.index('<section id="verdict">') : page.index('<section id="learning">')]
    assert without in verdict and "The model never answers &#39;cyan&#39;." in verdict
    assert '<p class="wrong">noted</p>' in page[page.index('<section id="health">') :]


def test_tables_that_hold_a_part_say_so(copied):
    pair = "0.9500,a.png,cyan,train,b.png,cyan,train,copy"
    header = "cosine,path,label,split,other_path,other_label,other_split,kind"
    (copied.audit / "near_duplicates.csv").write_text("\n".join([header, *[pair] * 30]))
    page = report_again(copied, audit={"near_duplicates": 11_175})
    assert (
        "11,175 pairs of images are alike by their bottlenecks; 24 are shown, the closest 30 of 11,175 are in" in page
    )
    page = report_again(copied, audit={"near_duplicates": 30})
    assert (
        "30 pairs of images are alike by their bottlenecks; 24 are shown, all are in audit/near_duplicates.csv" in page
    )
    copied.rejects.write_text(json.dumps({"key": "x", "reason": "corrupt", "detail": ""}) + "\n")
    copied.rejects.write_text(copied.rejects.read_text() * 300)
    page = report_again(copied, ingest={"rejected": 300})
    assert "200 are shown, all are in examples/rejects.jsonl." in page
    copy = "label_conflict,c.png,cyan,d.png,magenta,kept,00"
    header = "kind,key,label,copy_of,copy_of_label,action,sha256"
    copied.duplicates.write_text("\n".join([header, *[copy] * 25]))
    assert "24 of 25 pairs are shown, all are in examples/duplicates.csv." in report_again(copied)


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


def test_versions_are_those_that_are_imported(monkeypatch):
    versions = report.list_package_versions()
    assert versions["python"] == platform.python_version() and versions["tensorflow"] == tf.__version__
    monkeypatch.setattr(report, "PACKAGES", ("no-such-package",))
    assert report.list_package_versions()["no-such-package"] == ""


def test_the_page_shows_the_images_that_changed_since_the_last_blessed_model(copied):
    from components.compare.compare import compare_exports
    from components.compare.predictions import CHECKSUM
    from components.storage.checksums import compute_checksum
    from components.storage.files import read_json, write_json

    page = report_again(copied)
    assert "Changes since the last blessed model" not in page and "no earlier blessed model" in page
    (export,) = list_versions(copied.exports)
    former = export.with_name("17")
    shutil.copytree(export, former)
    answers = former / "test_predictions.csv"
    answers.write_text(re.sub(",(cyan|magenta),(cyan|magenta),", ",\\1,yellow,", answers.read_text()))
    verdict = former / "BLESSED"
    write_json(verdict, read_json(verdict) | {CHECKSUM: compute_checksum(answers)})
    page = report_again(copied)
    difference = compare_exports(former, export)
    assert difference.gained and f"{len(difference.gained)} images gained" in page
    section = page[page.index('<section id="changes">') : page.index('<section id="data-map">')]
    pictures = json.loads(re.search(r'id="pictures">(.*?)</script>', page)[1])
    shown = re.findall(r'data-key="([^"]+)"', section)
    assert (
        shown == [image["second_path"] for image in [*difference.lost, *difference.gained[:24]]]
        and {*shown} <= pictures.keys()
    )
    answers.unlink()
    page = report_again(copied)
    assert "No comparison with it image by image: The export" in page and '<section id="changes">' not in page
