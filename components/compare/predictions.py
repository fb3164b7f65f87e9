"""The answers of an export to its test images: kept beside it, and paired with those of another export."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from components.errors import DamagedFile, UserError
from components.storage.tables import scan_csv, write_csv

# A file of an export: the stage evaluate writes it.
TEST_PREDICTIONS = "test_predictions.csv"


class Answered(NamedTuple):
    """A test image: its path and checksum, its class, the answer of a model, and the probability of that answer."""

    path: str
    sha256: str
    actual: str
    label: str
    probability: float

    @property
    def right(self) -> bool:
        """True if the answer is the class."""
        return self.label == self.actual


# One image, as the first and as the second model answer it.
Pair = tuple[Answered, Answered]


class Shared(NamedTuple):
    """The images that two test splits share: pairs have one class in both, relabelled have two."""

    pairs: list[Pair]
    relabelled: list[Pair]

    @property
    def gained(self) -> list[Pair]:
        """The pairs that only the second model answers right."""
        return [pair for pair in self.pairs if pair[1].right and not pair[0].right]

    @property
    def lost(self) -> list[Pair]:
        """The pairs that only the first model answers right."""
        return [pair for pair in self.pairs if pair[0].right and not pair[1].right]


def list_answers(table: Path) -> list[Answered]:
    """Return the answers in a table of the stage evaluate; raises DamagedFile where it is no such table."""
    try:
        return [
            Answered(row["path"], row["sha256"], row["actual"], row["label"], float(row["probability"]))
            for row in scan_csv(table)
        ]
    except (KeyError, ValueError) as error:
        raise DamagedFile(str(table)) from error


def keep_predictions(predictions: Path, export: Path) -> None:
    """Write the answers in a table of the stage evaluate beside the export that gave them."""
    write_csv(export / TEST_PREDICTIONS, Answered._fields, list_answers(predictions))


def read_predictions(export: Path) -> list[Answered]:
    """Return the answers that were kept of an export; raises UserError where there are none or they are damaged."""
    try:
        return list_answers(export / TEST_PREDICTIONS)
    except FileNotFoundError as error:
        raise UserError(
            f"The export '{export}' has no {TEST_PREDICTIONS}, its answers to the test images: run its config again, "
            f"which measures the model."
        ) from error


def pair_answers(first: Sequence[Answered], second: Sequence[Answered]) -> Shared:
    """Pair the answers to one image, which has one checksum; of several copies those with equal paths first."""
    left = {(row.sha256, row.path): row for row in first}
    matches = [(left.pop((row.sha256, row.path), None), row) for row in second]
    copies: defaultdict[str, list[Answered]] = defaultdict(list)
    for row in left.values():
        copies[row.sha256].append(row)
    pairs = [(match or copies[row.sha256].pop(0), row) for match, row in matches if match or copies.get(row.sha256)]
    same, relabelled = (
        [pair for pair in pairs if (pair[0].actual == pair[1].actual) == alike] for alike in (True, False)
    )
    return Shared(same, relabelled)
