import csv

import pytest
from compared import draw_answers
from toys import refusal

from components.compare.predictions import (
    TEST_PREDICTIONS,
    Answered,
    keep_predictions,
    pair_answers,
    read_predictions,
)


def answered(path, sha256, actual="ant", label="ant"):
    return Answered(path, sha256, actual, label, 0.5)


def paths(pairs):
    return [(first.path, second.path) for first, second in pairs]


def test_an_image_is_that_of_the_same_checksum_whatever_its_path():
    first = [answered("a.png", "1"), answered("b.png", "2"), answered("c.png", "3")]
    second = [answered("moved/a.png", "1"), answered("b.png", "another image now"), answered("c.png", "3")]
    shared = pair_answers(first, second)
    assert sorted(paths(shared.pairs)) == [("a.png", "moved/a.png"), ("c.png", "c.png")]


def test_copies_are_paired_one_to_one_those_of_equal_paths_first():
    first = [answered("a.png", "1"), answered("b.png", "1"), answered("c.png", "1")]
    second = [answered("new.png", "1"), answered("b.png", "1")]
    assert sorted(paths(pair_answers(first, second).pairs)) == [("a.png", "new.png"), ("b.png", "b.png")]


def test_an_image_of_two_classes_is_no_pair():
    shared = pair_answers([answered("a.png", "1")], [answered("a.png", "1", actual="bee")])
    assert shared.pairs == [] and paths(shared.relabelled) == [("a.png", "a.png")]


def test_gained_and_lost_are_the_images_that_only_one_model_answers_right():
    first = [answered(str(number), str(number), "ant", label) for number, label in enumerate(["ant", "ant", "x", "x"])]
    second = [answered(str(number), str(number), "ant", label) for number, label in enumerate(["ant", "x", "ant", "y"])]
    shared = pair_answers(first, second)
    assert paths(shared.lost) == [("1", "1")] and paths(shared.gained) == [("2", "2")]


def test_the_kept_answers_are_those_of_the_evaluation(toy_run):
    (export,) = toy_run.exports.iterdir()
    with toy_run.predictions.open(newline="") as file:
        rows = list(csv.DictReader(file))
    with toy_run.images.open(newline="") as file:
        checksums = {row["path"]: row["sha256"] for row in csv.DictReader(file)}
    kept = read_predictions(export)
    assert kept == [
        Answered(row["path"], checksums[row["path"]], row["actual"], row["label"], float(row["probability"]))
        for row in rows
    ]
    assert all(row.sha256 for row in kept)


def test_names_that_a_spreadsheet_would_compute_survive(tmp_path):
    rows = [row._replace(path=f"=1+{row.path}", label="-x") for row in draw_answers(0.5, range(3))]
    table = tmp_path / "predictions.csv"
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([Answered._fields, *(("'" + r[0], *r[1:3], "'-x", r[4]) for r in rows)])
    keep_predictions(table, tmp_path)
    assert read_predictions(tmp_path) == rows


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, f"has no {TEST_PREDICTIONS}, its answers to the test images: run its config again"),
        ("path,label\na,b\n", "is damaged"),
        ("path,sha256,actual,label,probability\na,1,x,x,half\n", "is damaged"),
        ("path,sha256,actual,label,probability\na,1,x\n", "is damaged"),
    ],
)
def test_an_export_without_readable_answers_is_refused(tmp_path, content, words):
    if content is not None:
        (tmp_path / TEST_PREDICTIONS).write_text(content)
    assert words in refusal(read_predictions, tmp_path)
