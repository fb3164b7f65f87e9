"""The gate max_newly_wrong: test images that the last blessed model answers right and the new one does not."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from components.compare.predictions import TEST_PREDICTIONS, pair_answers, read_answers
from components.errors import UserError
from components.run_dir import BLESSED
from components.storage.checksums import compute_checksum
from components.storage.files import read_json

# Key of a verdict: the checksum of the answers that the export keeps.
CHECKSUM = "test_predictions_crc32c"


class NewlyWrong(NamedTuple):
    """Version of the earlier export, and of the test images that both splits share the number and those lost."""

    export: str
    images: int
    lost: int

    def describe_failure(self, limit: float) -> list[str]:
        """Return one sentence if the fraction of lost images is above the limit, else nothing."""
        share = self.lost / self.images
        return [
            f"{share:.4f} of the {self.images:,} test images shared with export {self.export} were right and now are "
            f"wrong ({self.lost:,} images), max_newly_wrong allows {limit:g}"
        ] * (share > limit)


def count_newly_wrong(predictions: Path, former: Path | None) -> NewlyWrong | str:
    """Compare predictions.csv with the answers of the last blessed export, or return why nothing can be compared.

    Raises UserError where these answers have changed.
    """
    if former is None:
        return "max_newly_wrong was not checked, as there is no earlier blessed model in this run directory"
    answers = former / TEST_PREDICTIONS
    why = f"max_newly_wrong was not checked, as the last blessed model, export {former.name}, has no"
    if not answers.exists():
        return f"{why} {TEST_PREDICTIONS}"
    if read_json(former / BLESSED).get(CHECKSUM) != compute_checksum(answers):
        raise UserError(
            f"'{answers}', with which the new model is compared, has changed since it was written: remove its folder "
            f"and run again, which compares with the export before it."
        )
    pairs = pair_answers(read_answers(answers), read_answers(predictions))
    return (
        f"{why} test image of this one" if pairs.empty else NewlyWrong(former.name, len(pairs), int(pairs.lost.sum()))
    )
