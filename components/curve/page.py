"""What is shown of a curve: means and deviations over its draws, a plot, and published figures beside them."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import plotly.graph_objects as go

from components.pages.html import embed_figure, load_plotly, load_template
from components.run_dir import RunDir
from components.storage.files import write_text
from components.storage.ownership import claim_files
from components.storage.tables import read_csv

# Accuracy in % by training images a class: M. Zeiler and R. Fergus, "Visualizing and Understanding Convolutional
# Networks" (2013), tables 4 and 5, and three networks' of "Inception v3 retraining", whose mean is over 5 draws.
PUBLISHED: dict[str, dict[str, dict[str, float]]] = {
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
    """Mean and deviation in % over the draws of one backbone and one number of images a class.

    Published ones lack some, and one draw has no deviation. accuracy is over all test images, mean_class is the mean of
    the classes' accuracies.
    """

    backbone: str
    per_class: str
    draws: int
    accuracy: float
    accuracy_std: float | None
    mean_class: float | None
    mean_class_std: float | None
    published: bool = False


def summarise_curve(rows: Sequence[Mapping[str, str]], source: str | None) -> list[CurvePoint]:
    """Return the points of curve.csv in its order, then those published for the same data set and numbers of images."""
    groups: dict[tuple[str, str], list[Mapping[str, str]]] = {}
    for row in rows:
        groups.setdefault((row["backbone"], row["per_class"]), []).append(row)
    measured = []
    for key, draws in groups.items():
        accuracy, mean_class = (_spread(draws, column) for column in ("accuracy", "mean_class_accuracy"))
        measured.append(CurvePoint(*key, len(draws), *accuracy, *mean_class))
    asked = {point.per_class for point in measured}
    return [*measured, *(point for point in _list_published(source) if point.per_class in asked)]


def _spread(draws: Sequence[Mapping[str, str]], column: str) -> tuple[float, float | None]:
    values = [100 * float(row[column]) for row in draws]
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None


def _list_published(source: str | None) -> Iterator[CurvePoint]:
    for name, accuracies in PUBLISHED.get(source or "", {}).items():
        for per_class, accuracy in accuracies.items():
            yield CurvePoint(name, per_class, 5, accuracy, None, None, None, published=True)


def format_point(point: CurvePoint) -> tuple[str, str, str, str]:
    """Return a row of a table: backbone, images a class, accuracy and mean class accuracy with their deviations."""

    def with_deviation(mean: float | None, deviation: float | None) -> str:
        if mean is None:
            return ""
        if point.published:
            return f"{mean:.1f}"
        return f"{mean:.2f}" if deviation is None else f"{mean:.2f} ± {deviation:.2f}"

    name = f"{point.backbone} (published)" if point.published else point.backbone
    accuracy = with_deviation(point.accuracy, point.accuracy_std)
    return name, point.per_class, accuracy, with_deviation(point.mean_class, point.mean_class_std)


def plot_curve(points: Sequence[CurvePoint]) -> go.Figure:
    """Draw accuracy over images a class, a line a backbone with its deviations; published ones are dotted."""
    figure = go.Figure()
    for name in dict.fromkeys(point.backbone for point in points if not point.published):
        own = [point for point in points if point.backbone == name and not point.published]
        figure.add_scatter(
            x=[point.per_class for point in own],
            y=[point.accuracy for point in own],
            error_y={"array": [point.accuracy_std for point in own]} if own[0].draws > 1 else None,
            name=name,
        )
    for name in dict.fromkeys(point.backbone for point in points if point.published):
        own = [point for point in points if point.backbone == name and point.published]
        figure.add_scatter(
            x=[point.per_class for point in own],
            y=[point.accuracy for point in own],
            name=f"{name} (published)",
            line={"dash": "dot"},
        )
    return figure.update_layout(
        xaxis={"title": "training images a class", "type": "category"},
        yaxis_title="test accuracy in %",
        height=420,
        template="plotly_white",
        margin={"l": 60, "r": 20, "t": 20, "b": 50},
    )


def write_curve_page(name: str, source: str | None, run: RunDir) -> Path:
    """Write curve/index.html, the page of a curve that stands alone, and return its path."""
    points = summarise_curve(read_csv(run.curve_rows), source)
    page = load_template("curve.html.j2").render(
        name=name,
        points=[(point.published, *format_point(point)) for point in points],
        curve_plot=embed_figure(plot_curve(points)),
        plotly=load_plotly(),
    )
    claim_files(run.curve, ["index.html"])
    write_text(run.curve / "index.html", page)
    return run.curve / "index.html"
