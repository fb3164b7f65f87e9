import json

import pandas as pd
import pytest
from compared import draw_answers, write_export
from scipy.stats import binomtest
from toys import refusal

from components.compare.compare import compare_exports
from components.compare.predictions import CHECKSUM, TEST_PREDICTIONS
from components.storage.checksums import compute_checksum


def tabulate(first, second):
    """Return the shared images as a table, by checksum."""
    left, right = (pd.DataFrame(rows).set_index("sha256") for rows in (first, second))
    table = left.join(right, how="inner", lsuffix="1", rsuffix="2")
    table["right1"], table["right2"] = table.label1 == table.actual1, table.label2 == table.actual2
    return table


@pytest.fixture
def two(tmp_path):
    """Two exports whose test splits share 200 images, and the table of these."""
    first, second = draw_answers(0.6, range(250), 1), draw_answers(0.8, range(50, 300), 2)
    exports = [write_export(tmp_path / name, rows) for name, rows in (("1", first), ("2", second))]
    return *exports, tabulate(first, second)


def test_the_numbers_are_those_of_pandas_and_scipy(two):
    first, second, table = two
    found = compare_exports(first, second)
    lost, gained = table[table.right1 & ~table.right2], table[~table.right1 & table.right2]
    assert found.images == len(table) == 200
    assert (found.first.accuracy, found.second.accuracy) == pytest.approx((table.right1.mean(), table.right2.mean()))
    assert found.first.own_accuracy == pytest.approx(sum(row.right for row in draw_answers(0.6, range(250), 1)) / 250)
    assert found.difference == pytest.approx(table.right2.mean() - table.right1.mean())
    assert found.interval[0] < found.difference < found.interval[1]
    assert found.p_value == pytest.approx(binomtest(len(lost), len(lost) + len(gained)).pvalue)
    assert {image["first_path"] for image in found.lost} == set(lost.path1)
    assert {image["first_path"] for image in found.gained} == set(gained.path1)
    assert [image["second_probability"] for image in found.lost] == sorted(lost.probability2, reverse=True)
    assert [image["first_probability"] for image in found.gained] == sorted(gained.probability1, reverse=True)


def test_classes_have_their_recalls_and_p_values_corrected_for_their_number(two):
    first, second, table = two
    found = compare_exports(first, second).classes
    rows = {row["label"]: row for row in found}
    groups = dict(list(table.groupby("actual1")))
    raw = {}
    for label, group in groups.items():
        row = rows[label]
        lost, gained = (group.right1 & ~group.right2).sum(), (group.right2 & ~group.right1).sum()
        assert (row["images"], row["gained"], row["lost"]) == (len(group), gained, lost)
        assert (row["first_recall"], row["second_recall"]) == pytest.approx((group.right1.mean(), group.right2.mean()))
        raw[label] = binomtest(lost, lost + gained).pvalue
    smallest = min(raw, key=raw.get)
    assert rows[smallest]["p_value"] == pytest.approx(min(1, 3 * raw[smallest]))
    changes = [abs(row["gained"] - row["lost"]) for row in found]
    assert changes == sorted(changes, reverse=True)


def test_other_way_round_gained_is_lost(two):
    there, back = compare_exports(two[0], two[1]), compare_exports(two[1], two[0])
    assert back.difference == -there.difference and back.p_value == there.p_value
    assert back.interval == pytest.approx((-there.interval[1], -there.interval[0]))
    assert [image["second_path"] for image in back.gained] == [image["first_path"] for image in there.lost]


def test_changed_answers_of_a_blessed_model_are_refused(tmp_path):
    first, second = (write_export(tmp_path / name, draw_answers(0.5)) for name in "12")
    answers = first / TEST_PREDICTIONS
    (first / "BLESSED").write_text(json.dumps({CHECKSUM: compute_checksum(answers)}))
    assert compare_exports(first, second).images == 300
    answers.write_bytes(answers.read_bytes().replace(b"0.9", b"0.8", 1))
    assert "has changed since it was written" in refusal(compare_exports, first, second)


def test_a_model_is_no_different_from_itself(two):
    found = compare_exports(two[0], two[0])
    assert (found.difference, found.p_value, found.gained, found.lost, found.classes) == (0, 1, [], [], [])
    assert found.notes == []


def test_other_splits_classes_and_labels_are_said(tmp_path):
    first = draw_answers(0.5, range(40))
    second = [row._replace(actual="bug") if row.path == "012.png" else row for row in draw_answers(0.5, range(10, 60))]
    left = write_export(tmp_path / "1", first)
    right = write_export(tmp_path / "2", second, ("ant", "bug", "cat", "dog"))
    found = compare_exports(left, right)
    assert found.images == 29
    assert (found.first.images_alone, found.second.images_alone) == (11, 21)
    assert (found.first.classes_alone, found.second.classes_alone) == (["bee"], ["bug", "dog"])
    assert found.notes == [
        "11 of the 40 test images of the first model are none of the other, or not of the same class: they are left "
        "out.",
        "Only the first model has these classes: bee.",
        "21 of the 50 test images of the second model are none of the other, or not of the same class: they are left "
        "out.",
        "Only the second model has these classes: bug, dog.",
        "Among these are 1 that are test images of both, but with another class in each.",
    ]


def test_models_without_a_shared_test_image_are_refused(tmp_path):
    left = write_export(tmp_path / "1", draw_answers(0.5, range(40)))
    right = write_export(tmp_path / "2", draw_answers(0.5, range(40, 80)))
    assert "have no test image of one class in common" in refusal(compare_exports, left, right)


def test_size_is_that_of_the_saved_model_and_speed_that_of_a_whole_extraction(tmp_path):
    exports = [write_export(tmp_path / run / "export" / "1", draw_answers(0.5, range(9))) for run in "abcd"]
    work = {"items": 500, "reused": 0, "computed": 500}
    records = [
        {"seconds": 20.0, "outcome": {"work": work, "backbone_id": "toy-1"}},
        {"seconds": 20.0, "outcome": {"work": {**work, "reused": 1, "computed": 499}, "backbone_id": "toy-1"}},
        {"seconds": 20.0, "outcome": {"work": work, "backbone_id": "another"}},
    ]
    for export, record in zip(exports, records, strict=False):
        (export.parents[1] / "stages").mkdir()
        (export.parents[1] / "stages" / "extract.json").write_text(json.dumps(record))
    found = [compare_exports(export, exports[0]).first for export in exports]
    assert [model.images_per_second for model in found] == [25, None, None, None]
    assert {model.bytes for model in found} == {300}
