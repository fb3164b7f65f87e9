"""The plots of the report: learning curves, coverage and calibration, confusion matrix, map of the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from components.features import SPLITS
from components.metrics.calibration import Abstention, Bins, confidence_interval

# With more classes, Plotly writes their names small and leaves some out until a person zooms in.
NAMES_IN_FULL = 30
SIDE = 760  # pixels


def set_layout(figure: go.Figure, height: int, margins: tuple[int, int, int, int], **layout: Any) -> go.Figure:
    """Return the figure with the height, the margins (left, right, top, bottom; pixels) and more of its layout."""
    margin = dict(zip("lrtb", margins, strict=True))
    return figure.update_layout(height=height, template="plotly_white", margin=margin, **layout)


def plot_history(history: Sequence[Mapping[str, str]], key: str, title: str = "") -> go.Figure:
    """Draw a column of history.csv, loss or accuracy, of train and validation over the epochs."""
    figure = go.Figure()
    for split, style in (("train", "dot"), ("val", "solid")):
        values = [float(row[f"{split}_{key}"]) for row in history]
        figure.add_scatter(x=[int(row["epoch"]) for row in history], y=values, name=split, line={"dash": style})
    return set_layout(figure, 300, (50, 20, 40, 40), title=f"{key}{title}", xaxis_title="epoch")


def plot_coverage(curve: tuple[np.ndarray, np.ndarray, np.ndarray], chosen: Abstention | None) -> go.Figure:
    """Draw a coverage_curve with thresholds on hover; chosen, where a threshold was, is what it does there."""
    coverage, accuracy, threshold = curve
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
    figure.update_xaxes(title="fraction of images answered", tickformat=".0%", range=[0, 1.02])
    figure.update_yaxes(title="accuracy of answers", tickformat=".1%", range=[lowest - margin, 1 + margin])
    legend = {"x": 0.02, "y": 0.05, "bgcolor": "rgba(0, 0, 0, 0)"}
    return set_layout(figure, 380, (60, 20, 40, 50), title="Accuracy against coverage", legend=legend)


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
    return set_layout(figure, 380, (60, 20, 40, 50), title="Reliability diagram", showlegend=False)


def plot_confusion(confusion: np.ndarray, labels: Sequence[str]) -> go.Figure:
    """Draw a confusion matrix int[C, C] as fractions of each actual class, counts on hover; the page adds colours."""
    few = len(labels) <= NAMES_IN_FULL
    shares = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    heatmap = go.Heatmap(
        z=np.round(shares, 4).tolist(),
        x=list(labels),
        y=list(labels),
        text=confusion.astype(str).tolist(),
        zmin=0,
        zmax=1,
        colorbar={"tickformat": ".0%", "title": {"text": "of the class"}, "thickness": 14},
        hovertemplate="actual %{y}<br>predicted %{x}<br>%{text} images, %{z:.1%} of the class<extra></extra>",
        xgap=1 if few else 0,
        ygap=1 if few else 0,
    )
    if len(labels) <= 15:
        heatmap.texttemplate = "%{text}"
    side = SIDE if len(labels) > 15 else max(320, 60 * len(labels))
    axis = {"type": "category", "tickfont": {"size": 12 if few else 9}, "automargin": True}
    figure = go.Figure(heatmap)
    figure.update_xaxes(title="predicted", side="bottom", **axis)
    figure.update_yaxes(title="actual", autorange="reversed", **axis)
    return set_layout(figure, side + 140, (60, 20, 20, 60), width=side + 260)


def plot_map(places: Sequence[Mapping[str, str]], wrong: set[str]) -> go.Figure:
    """Draw rows of map.csv in one colour per split, and the test images whose paths are in `wrong` as crosses."""
    groups: dict[str, list[Mapping[str, str]]] = {split: [] for split in (*SPLITS, "test, wrong")}
    for row in places:
        groups["test, wrong" if row["path"] in wrong else row["split"]].append(row)
    figure = go.Figure()
    for name, rows in groups.items():
        mistaken = name == "test, wrong"
        figure.add_scatter(
            x=[float(row["x"]) for row in rows],
            y=[float(row["y"]) for row in rows],
            customdata=[[row["path"], row["label"]] for row in rows],
            mode="markers",
            name=name,
            marker={"size": 9 if mistaken else 5, "symbol": "x" if mistaken else "circle"},
            hovertemplate="%{customdata[1]}<br>%{customdata[0]}<extra>" + name + "</extra>",
        )
    figure.update_xaxes(visible=False).update_yaxes(visible=False, scaleanchor="x")
    return set_layout(figure, 640, (10, 10, 10, 10), legend={"orientation": "h"})
