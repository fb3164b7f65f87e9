"""The content of the report: what the stages left of a run, read once for its page and the model card."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from components.audit.audit import LEAKS, NEAR_DUPLICATES, SUSPICIOUS_LABELS
from components.evaluate.tfma_analysis import read_confusion, read_slice_metrics
from components.export.versions import read_facts
from components.features import SOURCE
from components.metrics.calibration import (
    Abstention,
    Bins,
    apply_threshold,
    calibration_bins,
    confidence_interval,
    coverage_curve,
    expected_calibration_error,
)
from components.metrics.confusion import ClassRow, score_classes
from components.outcomes import Results
from components.run_dir import RunDir
from components.storage.tables import read_csv, scan_csv

# Rows that the page shows of a table; the files hold all.
ROWS_SHOWN = 24
REJECTS_SHOWN = 200

TableRow = dict[str, str]


class Reliability(NamedTuple):
    """Of the test split: mean confidence, 95 % interval of the accuracy, calibration, coverage_curve.

    validation is the threshold to abstain as it was chosen, test what it does on the test split; both are None where
    the model always answers.
    """

    confidence: float
    interval: tuple[float, float]
    ece: float
    bins: Bins
    curve: tuple[np.ndarray, np.ndarray, np.ndarray]
    validation: Abstention | None
    test: Abstention | None

    def summary(self) -> dict[str, Any]:
        """Return what summary.json and the card hold of it."""
        splits = {"validation": self.validation, "test": self.test}
        answers = {split: {**asdict(part), "coverage": part.coverage} for split, part in splits.items() if part}
        chosen = {key: part.pop(key) for part in answers.values() for key in ("threshold", "wanted")}
        return {"calibration": {"ece": self.ece}, "abstention": {**chosen, **answers} or None}


class Table(NamedTuple):
    """The rows of a table that the page shows, the most telling first, and how many the table has."""

    shown: list[TableRow]
    total: int


class DataHealth(NamedTuple):
    """The files left out, their number by reason, exact copies of two classes, near-duplicates, labels in doubt."""

    reasons: dict[str, int]
    rejects: Table
    conflicts: Table
    near_duplicates: Table
    suspicious: Table

    def image_keys(self) -> set[str]:
        """Return the keys of the images that the tables show."""
        pairs = [key for row in self.near_duplicates.shown for key in (row["path"], row["other_path"])]
        conflicts = [key for row in self.conflicts.shown for key in (row["key"], row["copy_of"])]
        return {*pairs, *conflicts, *(row["path"] for row in self.suspicious.shown)}


@dataclass(frozen=True)
class Content:
    """What page and card show of the outcomes of the stages.

    facts are the export's own; counts are the images of images.csv by class and split, images_sha256 is the SHA-256 of
    that file; predictions are the rows of predictions.csv; confusion is int[C, C], row actual; sources are metrics by
    source; leaked is the number of test images that have a near-duplicate in the train or val split.
    """

    results: Results
    facts: Mapping[str, Any]
    counts: Counter[tuple[str, str]]
    images_sha256: str
    predictions: Sequence[TableRow]
    confusion: np.ndarray
    sources: Mapping[str, Mapping[str, float]]
    reliability: Reliability
    leaked: int
    accuracy_without_leaks: float | None

    @cached_property
    def classes(self) -> list[ClassRow]:
        """The scores of each class."""
        return score_classes(self.confusion, self.results.examples.labels)

    @cached_property
    def mistakes(self) -> list[TableRow]:
        """The rows of wrong predictions, the most confident first."""
        wrong = (row for row in self.predictions if row["label"] != row["actual"])
        return sorted(wrong, key=lambda row: -float(row["probability"]))


def read_report_content(results: Results, run: RunDir) -> Content:
    """Read what ingest, audit, export and evaluate left; raises DamagedFile for the card of an export."""
    facts = read_facts(results.export.folder(run))
    predictions = read_csv(run.predictions)
    leaked = {row["path"] for row in scan_csv(run.audit / LEAKS)}
    with run.images.open("rb") as file:
        images_sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return Content(
        results,
        facts,
        Counter((row["label"], row["split"]) for row in scan_csv(run.images)),
        images_sha256,
        predictions,
        read_confusion(run.evaluation, len(results.examples.labels)),
        read_slice_metrics(run.evaluation, SOURCE),
        measure_reliability(predictions, Abstention(**facts["abstention"]) if facts["abstention"] else None),
        len(leaked),
        accuracy_of(row for row in predictions if row["path"] not in leaked),
    )


def measure_reliability(predictions: Sequence[TableRow], abstention: Abstention | None) -> Reliability:
    """Measure the rows of predictions.csv; abstention is the threshold as chosen on the validation split."""
    confidences = np.array([float(row["probability"]) for row in predictions])
    correct = np.array([row["label"] == row["actual"] for row in predictions])
    bins = calibration_bins(confidences, correct)
    return Reliability(
        confidence=float(confidences.mean()),
        interval=confidence_interval(int(correct.sum()), len(correct)),
        ece=expected_calibration_error(bins),
        bins=bins,
        curve=coverage_curve(confidences, correct),
        validation=abstention,
        test=abstention and apply_threshold(confidences, correct, abstention.threshold, abstention.wanted),
    )


def read_health(run: RunDir) -> DataHealth:
    """Read the tables of ingest and audit."""
    rejects = [json.loads(line) for line in run.rejects.read_text(encoding="utf-8").splitlines()]
    conflicts = [row for row in read_csv(run.duplicates) if row["label"] != row["copy_of_label"]]
    audited = [read_csv(run.audit / name) for name in (NEAR_DUPLICATES, SUSPICIOUS_LABELS)]
    return DataHealth(
        dict(Counter(reject["reason"] for reject in rejects).most_common()),
        Table(rejects[:REJECTS_SHOWN], len(rejects)),
        *(Table(rows[:ROWS_SHOWN], len(rows)) for rows in (conflicts, *audited)),
    )


def describe_leaks(content: Content) -> list[str]:
    """Return a sentence on the test images that have a near-duplicate in the train or val split, none without any."""
    if not content.leaked:
        return []
    images, them = ("image has", "it") if content.leaked == 1 else ("images have", "them")
    without = content.accuracy_without_leaks
    rest = "no other is left to measure" if without is None else f"without {them} {without:.4f}"
    return [
        f"{content.leaked:,} test {images} a near-duplicate in the train or val split (audit/{LEAKS}): with {them} the "
        f"accuracy is {content.results.evaluation.metrics['accuracy']:.4f}, {rest}."
    ]


def accuracy_of(predictions: Iterable[TableRow]) -> float | None:
    """Return the share of predictions that are right, None of none."""
    hits = [row["label"] == row["actual"] for row in predictions]
    return sum(hits) / len(hits) if hits else None
