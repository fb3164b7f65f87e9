"""The gate max_newly_wrong: test images that the last blessed model answers right and the new one does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from components.compare.predictions import TEST_PREDICTIONS, pair_answers, read_answers
from components.errors import UserError
from components.run_dir import BLESSED
from components.storage.checksums import compute_checksum
from components.storage.files import read_json

# Key of a verdict: the checksum of the answers that the export keeps.
CHECKSUM = "test_predictions_crc32c"


def count_newly_wrong(predictions: Path, former: Path | None) -> tuple[dict[str, Any] | None, str]:
    """Compare predictions.csv with the answers of the last blessed export; return the numbers, and a sentence.

    Without anything to compare there are no numbers, and the sentence says why. Raises UserError where the answers of
    the export have changed.
    """
    if former is None:
        return None, "max_newly_wrong was not checked, as there is no earlier blessed model in this run directory"
    answers = former / TEST_PREDICTIONS
    why = f"max_newly_wrong was not checked, as the last blessed model, export {former.name}, has no"
    if not answers.exists():
        return None, f"{why} {TEST_PREDICTIONS}"
    if read_json(former / BLESSED).get(CHECKSUM) != compute_checksum(answers):
        raise UserError(
            f"'{answers}', with which the new model is compared, has changed since it was written: remove its folder "
            f"and run again, which compares with the export before it."
        )
    pairs = pair_answers(read_answers(answers), read_answers(predictions))
    if pairs.empty:
        return None, f"{why} test image of this one"
    images, lost = len(pairs), int(pairs.lost.sum())
    return {"export": former.name, "images": images, "lost": lost}, (
        f"{lost / images:.4f} of the {images:,} test images shared with export {former.name} were right and now are "
        f"wrong ({lost:,} images)"
    )
