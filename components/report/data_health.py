"""What the report says of the data: rejects, exact copies, near-duplicates, suspicious labels."""

from __future__ import annotations

import collections
import json
from dataclasses import dataclass

from components.outcomes import Audit, Examples, Validation
from components.run_dir import RunDir
from components.storage.tables import read_csv

# Shown in the report; the files hold all.
PAIRS_SHOWN = 24
LABELS_SHOWN = 24
REJECTS_SHOWN = 200

Row = dict[str, str]


@dataclass(frozen=True)
class DataHealth:
    """Tables of the report; rows are those of the csv files, the most telling first, and counts those of all.

    near_duplicates_listed is the number of pairs in the csv file.
    """

    warnings: list[str]
    reasons: dict[str, int]
    rejects: list[Row]
    conflicts: list[Row]
    conflicts_count: int
    near_duplicates: list[Row]
    near_duplicates_count: int
    near_duplicates_listed: int
    suspicious: list[Row]
    suspicious_count: int

    def image_keys(self) -> set[str]:
        """Return the keys of the images that the tables show."""
        pairs = [key for row in self.near_duplicates for key in (row["path"], row["other_path"])]
        conflicts = [key for row in self.conflicts for key in (row["key"], row["copy_of"])]
        return {*pairs, *conflicts, *(row["path"] for row in self.suspicious)}


def collect_health(examples: Examples, validation: Validation, audit: Audit, run: RunDir) -> DataHealth:
    """Read what ingest, validate and audit left."""
    rejects = [json.loads(line) for line in run.rejects.read_text(encoding="utf-8").splitlines()]
    pairs = read_csv(run.audit / "near_duplicates.csv")
    suspicious = read_csv(run.audit / "suspicious_labels.csv")
    conflicts = [row for row in read_csv(run.duplicates) if row["label"] != row["copy_of_label"]]
    return DataHealth(
        warnings=[*examples.warnings, *validation.warnings, *audit.warnings],
        reasons=dict(collections.Counter(reject["reason"] for reject in rejects).most_common()),
        rejects=rejects[:REJECTS_SHOWN],
        conflicts=conflicts[:PAIRS_SHOWN],
        conflicts_count=len(conflicts),
        near_duplicates=pairs[:PAIRS_SHOWN],
        near_duplicates_count=audit.near_duplicates,
        near_duplicates_listed=len(pairs),
        suspicious=suspicious[:LABELS_SHOWN],
        suspicious_count=audit.suspicious,
    )
