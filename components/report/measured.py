"""What was measured on the test split, read once for the model card and the report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from components import features
from components.audit.audit import LEAKS
from components.evaluate.tfma_analysis import read_confusion, read_slice_metrics
from components.export.export import read_abstention
from components.outcomes import Evaluation, Examples, Export
from components.report.data_health import Row
from components.report.reliability import Reliability, collect_reliability
from components.run_dir import RunDir
from components.storage.tables import read_csv, scan_csv


class Measured(NamedTuple):
    """Rows of predictions.csv; confusion int[C, C], row actual; metrics, also by source; images like training's."""

    predictions: Sequence[Row]
    confusion: np.ndarray
    metrics: Mapping[str, float]
    sources: Mapping[str, Mapping[str, float]]
    reliability: Reliability
    leaked: int
    accuracy_without_leaks: float | None


def read_measured(examples: Examples, export: Export, evaluation: Evaluation, run: RunDir) -> Measured:
    """Read what evaluate and audit left of the test split."""
    predictions = read_csv(run.predictions)
    leaked = {row["path"] for row in scan_csv(run.audit / LEAKS)}
    return Measured(
        predictions,
        read_confusion(run.evaluation, len(examples.labels)),
        evaluation.metrics,
        read_slice_metrics(run.evaluation, features.SOURCE),
        collect_reliability(predictions, read_abstention(export.folder(run))),
        len(leaked),
        accuracy_of(row for row in predictions if row["path"] not in leaked),
    )


def describe_leaks(measured: Measured) -> list[str]:
    """Return a sentence on the test images that have a near-duplicate in the train split, none without any."""
    if not measured.leaked:
        return []
    images, them = ("image has", "it") if measured.leaked == 1 else ("images have", "them")
    without = measured.accuracy_without_leaks
    rest = "no other is left to measure" if without is None else f"without {them} {without:.4f}"
    return [
        f"{measured.leaked:,} test {images} a near-duplicate in the train split (audit/{LEAKS}): with {them} the "
        f"accuracy is {measured.metrics['accuracy']:.4f}, {rest}."
    ]


def accuracy_of(predictions: Iterable[Row]) -> float | None:
    """Return the share of predictions that are right, None of none."""
    hits = [row["label"] == row["actual"] for row in predictions]
    return sum(hits) / len(hits) if hits else None
