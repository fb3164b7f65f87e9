"""What the report says of the data: rejects, exact copies, near-duplicates, suspicious labels."""

from __future__ import annotations

import collections
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from components.features import Audit, Examples, RunDir, Validation
from components.tables import read_csv

# Shown in the report; the files hold all.
PAIRS_SHOWN = 24
LABELS_SHOWN = 24
REJECTS_SHOWN = 200

Row = dict[str, str]


@dataclass(frozen=True)
class DataHealth:
    """Tables of the report; rows are those of the csv files, the most telling first."""

    warnings: list[str]
    reasons: dict[str, int]
    rejects: list[Row]
    conflicts: list[Row]
    near_duplicates: list[Row]
    near_duplicates_count: int
    leaked_tests: int
    accuracy_without_leaks: float | None
    suspicious: list[Row]
    suspicious_count: int

    def image_keys(self) -> set[str]:
        """Return the keys of the images that the tables show."""
        pairs = [key for row in self.near_duplicates for key in (row["path"], row["other_path"])]
        conflicts = [key for row in self.conflicts for key in (row["key"], row["copy_of"])]
        return {*pairs, *conflicts, *(row["path"] for row in self.suspicious)}


def collect_health(
    examples: Examples, validation: Validation, audit: Audit, predictions: Sequence[Row], run: RunDir
) -> DataHealth:
    """Read what ingest, validate and audit left; predictions are the rows of predictions.csv."""
    rejects = [json.loads(line) for line in run.rejects.read_text(encoding="utf-8").splitlines()]
    pairs = read_csv(run.audit / "near_duplicates.csv")
    suspicious = read_csv(run.audit / "suspicious_labels.csv")
    copies = read_csv(run.duplicates)
    leaked = leaked_tests(pairs)
    return DataHealth(
        warnings=[*examples.warnings, *validation.warnings],
        reasons=dict(collections.Counter(reject["reason"] for reject in rejects).most_common()),
        rejects=rejects[:REJECTS_SHOWN],
        conflicts=[row for row in copies if row["label"] != row["copy_of_label"]][:PAIRS_SHOWN],
        near_duplicates=pairs[:PAIRS_SHOWN],
        near_duplicates_count=audit.near_duplicates,
        leaked_tests=len(leaked),
        accuracy_without_leaks=accuracy_of(row for row in predictions if row["path"] not in leaked),
        suspicious=suspicious[:LABELS_SHOWN],
        suspicious_count=audit.suspicious,
    )


def leaked_tests(pairs: Iterable[Row]) -> set[str]:
    """Return the keys of the test images that have a near-duplicate in the train split."""
    sides = (
        (row[f"{one}path"], row[f"{one}split"], row[f"{other}split"])
        for row in pairs
        for one, other in (("", "other_"), ("other_", ""))
    )
    return {key for key, split, other in sides if (split, other) == ("test", "train")}


def accuracy_of(predictions: Iterable[Row]) -> float | None:
    """Return the share of predictions that are right, None of none."""
    hits = [row["label"] == row["actual"] for row in predictions]
    return sum(hits) / len(hits) if hits else None
