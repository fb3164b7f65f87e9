"""The gate max_newly_wrong: test images that the last blessed model answers right and the new one does not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from components.compare.predictions import TEST_PREDICTIONS, Answered, pair_answers, read_predictions
from components.errors import UserError
from components.run_dir import BLESSED
from components.storage.checksums import compute_checksum
from components.storage.files import read_json

# Key of a verdict: the checksum of the answers that the export keeps.
CHECKSUM = "test_predictions_crc32c"


class NewlyWrong(NamedTuple):
    """Version of the earlier export, test images that both splits share, and those that were right and now are wrong.

    images is 0 where nothing was compared; unchecked then holds a sentence that says why.
    """

    export: str = ""
    images: int = 0
    lost: int = 0
    unchecked: tuple[str, ...] = ()

    def describe_failure(self, limit: float) -> list[str]:
        """Return one sentence if the fraction of lost images is above the limit, else nothing."""
        if not self.images or self.lost / self.images <= limit:
            return []
        return [
            f"{self.lost / self.images:.4f} of the {self.images:,} test images shared with export {self.export} were "
            f"right and now are wrong ({self.lost:,} images), max_newly_wrong allows {limit:g}"
        ]


def count_newly_wrong(rows: Sequence[Answered], former: Path | None) -> NewlyWrong:
    """Compare the new model's answers with those of the last blessed export; raises UserError if these are damaged."""
    if former is None:
        return _leave("there is no earlier blessed model in this run directory")
    if not (former / TEST_PREDICTIONS).exists():
        return _leave(f"the last blessed model, export {former.name}, has no {TEST_PREDICTIONS}")
    if read_json(former / BLESSED).get(CHECKSUM) != compute_checksum(former / TEST_PREDICTIONS):
        raise UserError(
            f"'{former / TEST_PREDICTIONS}', with which the new model is compared, has changed since it was written: "
            f"remove its folder and run again, which compares with the export before it."
        )
    shared = pair_answers(read_predictions(former), rows)
    if not shared.pairs:
        return _leave(f"the last blessed model, export {former.name}, has no test image in common with this one")
    return NewlyWrong(former.name, len(shared.pairs), len(shared.lost))


def _leave(reason: str) -> NewlyWrong:
    return NewlyWrong(unchecked=(f"max_newly_wrong was not checked, as {reason}",))
