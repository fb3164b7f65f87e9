"""What the report says of the probabilities: accuracy against coverage, calibration, and the threshold to abstain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from components.metrics.calibration import (
    Abstention,
    Bins,
    apply_threshold,
    calibration_bins,
    confidence_interval,
    coverage_curve,
    expected_calibration_error,
)

LAYOUT = {"height": 380, "template": "plotly_white", "margin": {"l": 60, "r": 20, "t": 40, "b": 50}}


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


def plot_coverage(reliability: Reliability) -> go.Figure:
    """Draw accuracy of the answered test images against the share answered; thresholds on hover."""
    coverage, accuracy, threshold = reliability.curve
    figure = go.Figure()
    figure.add_scatter(
        x=coverage,
        y=accuracy,
        customdata=threshold,
        mode="lines" if len(coverage) > 1 else "markers",
        name="test split",
        hovertemplate="threshold %{customdata:.4f}<br>%{x:.1%} answered<br>%{y:.2%} of them right<extra></extra>",
    )
    lowest = float(accuracy[coverage >= 0.1].min())  # the few most confident images alone would stretch the axis
    chosen = reliability.test
    if chosen:
        figure.add_hline(
            chosen.wanted, line={"dash": "dot", "width": 1}, annotation_text="wanted", annotation_position="bottom left"
        )
    if chosen and chosen.precision is not None:
        lowest = min(lowest, chosen.precision, chosen.wanted)
        figure.add_scatter(
            x=[chosen.coverage],
            y=[chosen.precision],
            customdata=[chosen.threshold],
            mode="markers",
            marker={"size": 12, "symbol": "diamond"},
            name="chosen threshold",
            hovertemplate=figure.data[0].hovertemplate,
        )
    margin = 0.05 * (1 - lowest) + 0.002
    figure.update_xaxes(title="share of images answered", tickformat=".0%", range=[0, 1.02])
    figure.update_yaxes(title="accuracy of answers", tickformat=".1%", range=[lowest - margin, 1 + margin])
    return figure.update_layout(
        title="Accuracy against coverage", legend={"x": 0.02, "y": 0.05, "bgcolor": "rgba(0, 0, 0, 0)"}, **LAYOUT
    )


def plot_calibration(bins: Bins) -> go.Figure:
    """Draw the reliability diagram: accuracy with its 95 % interval against mean confidence, a dot a bin."""
    low, high = np.transpose(
        [
            confidence_interval(round(share * images), images)
            for share, images in zip(bins.accuracy, bins.images, strict=True)
        ]
    )
    figure = go.Figure()
    figure.add_scatter(
        x=[0, 1], y=[0, 1], mode="lines", line={"dash": "dot", "color": "gray"}, name="calibrated", hoverinfo="skip"
    )
    figure.add_scatter(
        x=bins.confidence,
        y=bins.accuracy,
        customdata=np.stack([bins.images, low, high], axis=1),
        error_y={"array": high - bins.accuracy, "arrayminus": bins.accuracy - low, "thickness": 1, "width": 0},
        mode="markers",
        marker={"size": bins.images, "sizemode": "area", "sizeref": 2 * bins.images.max() / 30**2, "sizemin": 3},
        name="test split",
        hovertemplate="%{customdata[0]} images<br>mean probability %{x:.1%}<br>%{y:.1%} right, "
        "95% interval %{customdata[1]:.1%} to %{customdata[2]:.1%}<extra></extra>",
    )
    figure.update_xaxes(title="mean probability of each bin", tickformat=".0%", range=[-0.03, 1.03])
    figure.update_yaxes(title="accuracy", tickformat=".0%", range=[-0.05, 1.1])
    return figure.update_layout(title="Reliability diagram", showlegend=False, **LAYOUT)
