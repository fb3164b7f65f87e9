"""What the report says of the probabilities: accuracy against coverage, calibration, and the threshold to abstain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from components.metrics.calibration import (
    Abstention,
    Bins,
    apply_threshold,
    calibration_bins,
    coverage_curve,
    expected_calibration_error,
)


@dataclass(frozen=True)
class Reliability:
    """Of the test split: mean confidence, accuracy, calibration, coverage_curve, and what the threshold does there.

    validation is the threshold as it was chosen; it and test are None where the model always answers.
    """

    confidence: float
    accuracy: float
    ece: float
    bins: Bins
    curve: tuple[np.ndarray, np.ndarray, np.ndarray]
    validation: Abstention | None
    test: Abstention | None

    def summary(self) -> dict[str, Any]:
        """Return what summary.json holds of it."""
        abstention = None
        if self.validation and self.test:
            abstention = {
                "threshold": self.validation.threshold,
                "wanted": self.validation.wanted,
                "validation": _measured(self.validation),
                "test": _measured(self.test),
            }
        return {"calibration": {"ece": self.ece}, "abstention": abstention}


def collect_reliability(predictions: Sequence[Mapping[str, str]], abstention: Abstention | None) -> Reliability:
    """Measure the rows of predictions.csv; abstention is the threshold as chosen on the validation split."""
    confidences = np.array([float(row["probability"]) for row in predictions])
    correct = np.array([row["label"] == row["actual"] for row in predictions])
    bins = calibration_bins(confidences, correct)
    return Reliability(
        confidence=float(confidences.mean()),
        accuracy=float(correct.mean()),
        ece=expected_calibration_error(bins),
        bins=bins,
        curve=coverage_curve(confidences, correct),
        validation=abstention,
        test=abstention and apply_threshold(confidences, correct, abstention.threshold, abstention.wanted),
    )


def _measured(abstention: Abstention) -> dict[str, Any]:
    measured = {key: value for key, value in asdict(abstention).items() if key not in ("threshold", "wanted")}
    return {**measured, "coverage": abstention.coverage}
