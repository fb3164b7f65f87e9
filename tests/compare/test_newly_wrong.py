import json

import pytest
from compared import draw_answers, write_export
from toys import refusal

from components.compare.predictions import CHECKSUM, TEST_PREDICTIONS, count_newly_wrong
from components.storage.checksums import compute_checksum


@pytest.fixture
def former(tmp_path):
    """A blessed export with answers to images 0 to 99."""
    export = write_export(tmp_path / "17", draw_answers(0.7, range(100), 1))
    (export / "BLESSED").write_text(json.dumps({CHECKSUM: compute_checksum(export / TEST_PREDICTIONS)}))
    return export


def test_only_images_of_both_test_splits_count(former, tmp_path):
    rows = draw_answers(0.6, range(50, 150), 2)
    predictions = write_export(tmp_path / "18", rows) / TEST_PREDICTIONS
    before = {row.sha256: row for row in draw_answers(0.7, range(100), 1)}
    lost = sum(before[row.sha256].right and not row.right for row in rows if row.sha256 in before)
    assert count_newly_wrong(predictions, former) == (
        {"export": "17", "images": 50, "lost": lost},
        f"{lost / 50:.4f} of the 50 test images shared with export 17 were right and now are wrong ({lost} images)",
    )


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("export", "there is no earlier blessed model in this run directory"),
        ("answers", "the last blessed model, export 17, has no test_predictions.csv"),
        ("images", "the last blessed model, export 17, has no test image of this one"),
    ],
)
def test_where_nothing_can_be_compared_the_reason_is_given(former, tmp_path, missing, words):
    rows = draw_answers(0.6, range(500, 600) if missing == "images" else range(100))
    if missing == "answers":
        (former / TEST_PREDICTIONS).unlink()
    predictions = write_export(tmp_path / "18", rows) / TEST_PREDICTIONS
    found = count_newly_wrong(predictions, None if missing == "export" else former)
    assert found == (None, f"max_newly_wrong was not checked, as {words}")


def test_answers_of_the_last_blessed_model_that_have_changed_are_refused(former):
    lines = (former / TEST_PREDICTIONS).read_text().splitlines(keepends=True)
    (former / TEST_PREDICTIONS).write_text("".join(lines[:-1]))
    assert "has changed since it was written" in refusal(count_newly_wrong, former / TEST_PREDICTIONS, former)
