"""The answers of an export to its test images: kept beside it, and paired with those of another export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from components.errors import DamagedFile, UserError
from components.run_dir import BLESSED
from components.storage.checksums import compute_checksum
from components.storage.files import read_json
from components.storage.tables import scan_csv

# A file of an export, which the stage evaluate writes, and its columns, which predictions.csv has too.
TEST_PREDICTIONS = "test_predictions.csv"
COLUMNS = ("path", "sha256", "actual", "label", "probability")
# Key of the verdict of a blessed export: the checksum of that file.
CHECKSUM = "test_predictions_crc32c"
# Columns of pairs: whether only the second, or only the first model answers right.
MARKS = ["gained", "lost"]


def read_answers(table: Path) -> pd.DataFrame:
    """Return a table with COLUMNS from predictions.csv or TEST_PREDICTIONS; raises UserError without such a file."""
    try:
        rows = [[row[name] for name in COLUMNS] for row in scan_csv(table)]
        return pd.DataFrame(rows, columns=COLUMNS).astype({"probability": float})
    except FileNotFoundError as error:
        raise UserError(
            f"The export '{table.parent}' has no {table.name}, its answers to the test images: run its config again, "
            f"which measures the model."
        ) from error
    except (KeyError, ValueError) as error:
        raise DamagedFile(str(table)) from error


def read_kept_answers(export: Path) -> pd.DataFrame:
    """Return the answers kept beside an export; raises UserError where they are missing, or a blessed one's changed."""
    answers, verdict = export / TEST_PREDICTIONS, export / BLESSED
    expected = read_json(verdict).get(CHECKSUM) if verdict.exists() else None
    if expected and answers.exists() and expected != compute_checksum(answers):
        raise UserError(
            f"'{answers}' has changed since it was written, so the model cannot be compared: remove its folder and "
            f"run its config again."
        )
    return read_answers(answers)


def pair_answers(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """Return the images that two tables have under one class, each once, by checksum; of copies, as many as both have.

    Columns but actual, sha256 and MARKS begin with first_ or second_.
    """
    keys = ["sha256", "actual"]
    numbered = [
        answers.sort_values("path").assign(copy=lambda rows: rows.groupby(keys).cumcount()).set_index([*keys, "copy"])
        for answers in (first, second)
    ]
    joined = numbered[0].add_prefix("first_").join(numbered[1].add_prefix("second_"), how="inner")
    joined = joined.reset_index(keys).reset_index(drop=True)
    before, now = joined.first_label == joined.actual, joined.second_label == joined.actual
    return joined.assign(gained=now & ~before, lost=before & ~now)


def count_newly_wrong(predictions: Path, former: Path | None) -> tuple[dict[str, Any] | None, str]:
    """Compare predictions.csv with the answers of the last blessed export; return the numbers, and a sentence.

    Without anything to compare there are no numbers, and the sentence says why. Raises UserError where the answers of
    the export have changed.
    """
    if former is None:
        return None, "max_newly_wrong was not checked, as there is no earlier blessed model in this run directory"
    why = f"max_newly_wrong was not checked, as the last blessed model, export {former.name}, has no"
    if not (former / TEST_PREDICTIONS).exists():
        return None, f"{why} {TEST_PREDICTIONS}"
    pairs = pair_answers(read_kept_answers(former), read_answers(predictions))
    if pairs.empty:
        return None, f"{why} test image of this one"
    images, lost = len(pairs), int(pairs.lost.sum())
    return {"export": former.name, "images": images, "lost": lost}, (
        f"{lost / images:.4f} of the {images:,} test images shared with export {former.name} were right and now are "
        f"wrong ({lost:,} images)"
    )
