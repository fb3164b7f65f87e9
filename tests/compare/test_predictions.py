import csv

import pandas as pd
import pytest
from compared import Answered, draw_answers
from toys import refusal

from components.compare.predictions import COLUMNS, TEST_PREDICTIONS, pair_answers, read_answers
from components.storage.tables import write_csv


def pair(first, second):
    """Return the pairs of two lists of answers as rows."""
    return list(pair_answers(pd.DataFrame(first), pd.DataFrame(second)).itertuples())


def paths(pairs):
    return sorted((row.first_path, row.second_path) for row in pairs)


def test_an_image_is_that_of_the_same_checksum_whatever_its_path():
    first = [Answered("a.png", "1"), Answered("b.png", "2"), Answered("c.png", "3")]
    second = [Answered("moved/a.png", "1"), Answered("b.png", "another image now"), Answered("c.png", "3")]
    assert paths(pair(first, second)) == [("a.png", "moved/a.png"), ("c.png", "c.png")]


def test_copies_are_paired_one_to_one():
    first = [Answered("a.png", "1"), Answered("b.png", "1"), Answered("c.png", "1")]
    second = [Answered("b.png", "1"), Answered("a.png", "1")]
    assert paths(pair(first, second)) == [("a.png", "a.png"), ("b.png", "b.png")]


def test_an_image_of_two_classes_is_no_pair_and_a_copy_of_each_class_is_one():
    assert pair([Answered("a.png", "1")], [Answered("a.png", "1", actual="bee")]) == []
    both = [Answered("a.png", "1"), Answered("b.png", "1", actual="bee")]
    assert paths(pair(both, both[::-1])) == [("a.png", "a.png"), ("b.png", "b.png")]


def test_gained_and_lost_are_the_images_that_only_one_model_answers_right():
    first = [Answered(str(number), str(number), "ant", label) for number, label in enumerate(["ant", "ant", "x", "x"])]
    second = [Answered(str(number), str(number), "ant", label) for number, label in enumerate(["ant", "x", "ant", "y"])]
    rows = {row.first_path: (row.gained, row.lost) for row in pair(first, second)}
    assert rows == {"0": (False, False), "1": (False, True), "2": (True, False), "3": (False, False)}


def test_the_kept_answers_are_those_of_the_evaluation(toy_run):
    (export,) = toy_run.exports.iterdir()
    with toy_run.predictions.open(newline="") as file:
        rows = list(csv.DictReader(file))
    with toy_run.images.open(newline="") as file:
        checksums = {row["path"]: row["sha256"] for row in csv.DictReader(file)}
    kept = [*read_answers(export / TEST_PREDICTIONS).itertuples(index=False, name=None)]
    assert kept == [
        (row["path"], checksums[row["path"]], row["actual"], row["label"], float(row["probability"])) for row in rows
    ]
    assert read_answers(toy_run.predictions).equals(read_answers(export / TEST_PREDICTIONS))


def test_names_that_a_spreadsheet_would_compute_or_pandas_would_take_for_nothing_survive(tmp_path):
    rows = [row._replace(path=f"=1+{row.path}", label="-x", actual="NA") for row in draw_answers(0.5, range(3))]
    write_csv(tmp_path / "t.csv", COLUMNS, rows)
    assert [*read_answers(tmp_path / "t.csv").itertuples(index=False, name=None)] == [tuple(row) for row in rows]


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
    assert words in refusal(read_answers, tmp_path / TEST_PREDICTIONS)
