"""The page of a curve: means and standard deviations over its draws, a plot, and published figures for comparison."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import plotly.graph_objects as go

from components.pages.figures import set_layout
from components.pages.html import embed_figure, load_plotly, load_template
from components.run_dir import RunDir
from components.storage.files import write_text
from components.storage.ownership import claim_files
from components.storage.tables import read_csv

# Accuracy in % by training images per class: M. Zeiler and R. Fergus, "Visualizing and Understanding Convolutional
# Networks" (2013), tables 4 and 5, and three networks' of "Inception v3 retraining", whose mean is over 5 draws.
PUBLISHED_ACCURACIES: dict[str, dict[str, dict[str, float]]] = {
    "caltech101": {
        "Zeiler & Fergus 2013": {"15": 83.8, "30": 86.5},
        "Inception v3": {"15": 87.5, "30": 89.8},
        "Inception v4": {"15": 85.6, "30": 88.5},
        "Inception ResNet v2": {"15": 87.8, "30": 90.1},
    },
    "caltech256": {
        "Zeiler & Fergus 2013": {"15": 65.7, "30": 70.6, "45": 72.7, "60": 74.2},
        "Inception v3": {"15": 79.4, "30": 81.9, "45": 83.0, "60": 84.3},
        "Inception v4": {"15": 80.1, "30": 82.5, "45": 85.2, "60": 86.5},
        "Inception ResNet v2": {"15": 81.0, "30": 84.4, "45": 86.2, "60": 86.7},
    },
}


class CurvePoint(NamedTuple):
    """Mean and standard deviation in % over the draws of one backbone and one number of images per class.

    accuracy is over all test images, mean_class is the mean of the classes' accuracies. Published points have only
    accuracy, and one draw has no standard deviation.
    """

    backbone: str
    per_class: str
    draws: int
    accuracy: float
    accuracy_std: float | None
    mean_class: float | None
    mean_class_std: float | None
    published: bool = False


def summarize_curve(rows: Sequence[Mapping[str, str]], source: str | None) -> list[CurvePoint]:
    """Return the points of curve.csv in its order, then published ones for the same data set and numbers of images."""
    groups: dict[tuple[str, str], list[Mapping[str, str]]] = {}
    for row in rows:
        groups.setdefault((row["backbone"], row["per_class"]), []).append(row)
    measured = []
    for key, draws in groups.items():
        accuracy, mean_class = (_spread(draws, column) for column in ("accuracy", "mean_class_accuracy"))
        measured.append(CurvePoint(*key, len(draws), *accuracy, *mean_class))
    asked = {point.per_class for point in measured}
    published = [
        CurvePoint(name, per_class, 5, accuracy, None, None, None, published=True)
        for name, accuracies in PUBLISHED_ACCURACIES.get(source or "", {}).items()
        for per_class, accuracy in accuracies.items()
        if per_class in asked
    ]
    return measured + published


def _spread(draws: Sequence[Mapping[str, str]], column: str) -> tuple[float, float | None]:
    values = [100 * float(row[column]) for row in draws]
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None


def format_point(point: CurvePoint) -> tuple[str, str, str, str]:
    """Return a table row: backbone, images per class, accuracy and mean class accuracy with standard deviations."""
    if point.published:
        return f"{point.backbone} (published)", point.per_class, f"{point.accuracy:.1f}", ""
    accuracy, mean_class = (
        f"{mean:.2f}" if std is None else f"{mean:.2f} ± {std:.2f}"
        for mean, std in ((point.accuracy, point.accuracy_std), (point.mean_class, point.mean_class_std))
    )
    return point.backbone, point.per_class, accuracy, mean_class


def plot_curve(points: Sequence[CurvePoint]) -> go.Figure:
    """Draw accuracy over images per class, one line per backbone with standard deviations; published are dotted."""
    figure = go.Figure()
    for name, published in dict.fromkeys((point.backbone, point.published) for point in points):
        own = [point for point in points if (point.backbone, point.published) == (name, published)]
        deviations = None if published or own[0].draws == 1 else {"array": [point.accuracy_std for point in own]}
        figure.add_scatter(
            x=[point.per_class for point in own],
            y=[point.accuracy for point in own],
            error_y=deviations,
            name=f"{name} (published)" if published else name,
            line={"dash": "dot"} if published else None,
        )
    across = {"title": "training images per class", "type": "category"}
    return set_layout(figure, 420, (60, 20, 20, 50), xaxis=across, yaxis_title="test accuracy in %")


def describe_curve(points: Sequence[CurvePoint]) -> dict[str, Any]:
    """Return the variables of a template that shows the points."""
    return {
        "points": [(point.published, *format_point(point)) for point in points],
        "curve_plot": embed_figure(plot_curve(points)),
    }


def write_curve_page(name: str, source: str | None, run: RunDir) -> Path:
    """Write curve/index.html, the page of a curve without a report, and return its path."""
    shown = describe_curve(summarize_curve(read_csv(run.curve_rows), source))
    page = load_template("curve.html.j2").render(name=name, plotly=load_plotly(), **shown)
    claim_files(run.curve, ["index.html"])
    write_text(run.curve / "index.html", page)
    return run.curve / "index.html"
