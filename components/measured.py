"""What was measured on the test split, read once for the model card and the report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from components import features
from components.audit import NEAR_DUPLICATES
from components.data_health import Row
from components.export import read_abstention
from components.features import Evaluation, Examples, Export, RunDir
from components.model_analysis import read_confusion, read_slice_metrics
from components.reliability import Reliability, collect_reliability
from components.tables import read_csv


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
    leaked = leaked_tests(read_csv(run.audit / NEAR_DUPLICATES))
    return Measured(
        predictions,
        read_confusion(run.evaluation, len(examples.labels)),
        evaluation.metrics,
        read_slice_metrics(run.evaluation, features.SOURCE),
        collect_reliability(predictions, read_abstention(export.folder(run))),
        len(leaked),
        accuracy_of(row for row in predictions if row["path"] not in leaked),
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
