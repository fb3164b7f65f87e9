"""Report: csv and json files, and one self-contained page that shows the model to a person."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go

from components import features
from components.calibration import Abstention
from components.curve_report import format_point, plot_curve, summarise_curve
from components.data_health import collect_health, read_table
from components.features import (
    SPLITS,
    Audit,
    Bottlenecks,
    Evaluation,
    Examples,
    Head,
    Report,
    RunDir,
    TunedHead,
    Validation,
    Work,
)
from components.files import replacing_folder, write_csv, write_json, write_text
from components.model_analysis import read_confusion, read_slice_metrics
from components.pages import encode_uri, load_template
from components.reliability import collect_reliability, plot_calibration, plot_coverage
from components.thumbnails import read_thumbnails

GALLERY_IMAGES = 9
MISTAKES_SHOWN = 60


class ClassRow(NamedTuple):
    """One row of classes.csv; precision and recall are 0 where nothing was predicted or nothing was there."""

    label: str
    precision: float
    recall: float
    f1: float
    support: int


def score_classes(confusion: np.ndarray, labels: Sequence[str]) -> list[ClassRow]:
    """Return per-class scores from a confusion matrix int[C, C], row actual, column predicted."""
    hits, actual, predicted = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    precision = np.divide(hits, predicted, out=np.zeros(len(labels)), where=predicted > 0)
    recall = np.divide(hits, actual, out=np.zeros(len(labels)), where=actual > 0)
    both = precision + recall
    f1 = np.divide(2 * precision * recall, both, out=np.zeros(len(labels)), where=both > 0)
    return [ClassRow(*row) for row in zip(labels, precision.tolist(), recall.tolist(), f1.tolist(), actual.tolist())]


def write_report(
    name: str,
    examples: Examples,
    validation: Validation,
    bottlenecks: Bottlenecks,
    audit: Audit,
    head: Head,
    evaluation: Evaluation,
    run: RunDir,
    seed: int,
    abstention: Abstention | None,
    source: str | None,
) -> Report:
    """Write report/: confusion.csv, classes.csv, mistakes.csv, history.csv, summary.json and index.html.

    abstention is the threshold chosen on the validation split, None for a model that always answers; source names the
    data set, if it is a known one. The curve is shown, and curve.csv kept beside, where one was measured.
    """
    labels = examples.labels
    confusion = read_confusion(run.evaluation, len(labels))
    classes = score_classes(confusion, labels)
    predictions = read_table(run.predictions)
    history = read_table(head.history(run))
    trainings = {"": history}
    if isinstance(head, TunedHead):
        trainings = {" of the head alone": read_table(run.history), " while fine-tuning": history}
    health = collect_health(examples, validation, audit, predictions, run)
    reliability = collect_reliability(predictions, abstention)
    mistakes = sorted(
        (row for row in predictions if row["label"] != row["actual"]), key=lambda row: -float(row["probability"])
    )
    picked = np.random.default_rng(seed).permutation(len(predictions))[:GALLERY_IMAGES]
    gallery = [predictions[row] for row in picked]
    shown = mistakes[:MISTAKES_SHOWN]
    thumbnails = make_thumbnails(
        {*(row["path"] for row in [*gallery, *shown]), *health.image_keys()}, run.examples, examples.shards
    )
    summary = {
        "name": name,
        "metrics": evaluation.metrics,
        "blessed": evaluation.blessed,
        "reasons": evaluation.reasons,
        "macro": {
            score: float(np.mean([getattr(row, score) for row in classes])) for score in ("precision", "recall", "f1")
        },
        "most_confused": most_confused(confusion, labels),
        "examples": {key: value for key, value in asdict(examples).items() if key not in ("work", "labels")},
        "backbone": {"name": bottlenecks.backbone_name, "id": bottlenecks.backbone_id, "dim": bottlenecks.dim},
        "best_epoch": head.best_epoch,
        **reliability.summary(),
    }
    curve_rows = read_table(run.curve_rows) if run.curve_rows.exists() else []
    points = summarise_curve(curve_rows, source)
    page = load_template("report.html.j2").render(
        summary=summary,
        classes=classes,
        slices=read_slice_metrics(run.evaluation, features.SOURCE),
        gallery=gallery,
        mistakes=shown,
        mistakes_count=len(mistakes),
        thumbnails=thumbnails,
        health=health,
        curves=[
            _figure_html(plot_history(rows, key, title))
            for title, rows in trainings.items()
            for key in ("loss", "accuracy")
        ],
        notes=head.warnings if isinstance(head, TunedHead) else [],
        confusion=_figure_html(plot_confusion(confusion, labels)),
        reliability=reliability,
        reliability_plots=[_figure_html(plot_coverage(reliability)), _figure_html(plot_calibration(reliability.bins))],
        points=[(point.published, *format_point(point)) for point in points],
        curve_plot=_figure_html(plot_curve(points)) if points else "",
        plotly=_plotly_source(),
    )
    with replacing_folder(run.report) as folder:
        write_csv(
            folder / "confusion.csv",
            ["actual", *labels],
            ([text, *row] for text, row in zip(labels, confusion.tolist())),
        )
        write_csv(
            folder / "classes.csv",
            ClassRow._fields,
            ([row.label, *(f"{v:.6f}" for v in row[1:4]), row.support] for row in classes),
        )
        write_csv(folder / "mistakes.csv", list(predictions[0]), (list(row.values()) for row in mistakes))
        write_csv(folder / "history.csv", list(history[0]), (list(row.values()) for row in history))
        if curve_rows:
            write_csv(folder / run.curve_rows.name, list(curve_rows[0]), (list(row.values()) for row in curve_rows))
        write_json(folder / "summary.json", summary)
        (folder / "index.html").write_text(page, encoding="utf-8", errors="backslashreplace")
    return Report(
        Work(len(predictions), computed=len(predictions)), str((run.report / "index.html").relative_to(run.root))
    )


def write_curve_page(name: str, source: str | None, run: RunDir) -> Path:
    """Write curve/index.html, the page of a curve that stands alone, and return its path."""
    points = summarise_curve(read_table(run.curve_rows), source)
    page = load_template("curve.html.j2").render(
        name=name,
        points=[(point.published, *format_point(point)) for point in points],
        curve_plot=_figure_html(plot_curve(points)),
        plotly=_plotly_source(),
    )
    write_text(run.curve / "index.html", page)
    return run.curve / "index.html"


def most_confused(confusion: np.ndarray, labels: Sequence[str], count: int = 10) -> list[dict[str, Any]]:
    """Return the off-diagonal cells with the most images, as actual, predicted and count."""
    off = confusion - np.diag(np.diag(confusion))
    cells = sorted(zip(*np.nonzero(off)), key=lambda cell: (-off[cell], cell))[:count]
    return [{"actual": labels[a], "predicted": labels[p], "count": int(off[a, p])} for a, p in cells]


def make_thumbnails(keys: set[str], examples: Path, shards: int) -> dict[str, str]:
    """Return a data URI of a small JPEG for each key that is found in the shards where it must lie."""
    return {key: encode_uri(image) for key, image in read_thumbnails(keys, SPLITS, examples, shards)}


def plot_history(history: list[dict[str, str]], key: str, title: str = "") -> go.Figure:
    """Draw loss or accuracy of train and validation over the epochs."""
    figure = go.Figure()
    for split, style in (("train", "dot"), ("val", "solid")):
        values = [float(row[f"{split}_{key}"]) for row in history]
        figure.add_scatter(x=[int(row["epoch"]) for row in history], y=values, name=split, line={"dash": style})
    return figure.update_layout(
        title=f"{key}{title}",
        xaxis_title="epoch",
        height=300,
        template="plotly_white",
        margin={"l": 50, "r": 20, "t": 40, "b": 40},
    )


def plot_confusion(confusion: np.ndarray, labels: Sequence[str]) -> go.Figure:
    """Draw the confusion matrix, each row as shares of its class; counts on hover."""
    shares = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    hover = "actual %{y}<br>predicted %{x}<br>%{text} images, %{z:.1%} of the class<extra></extra>"
    heatmap = go.Heatmap(
        z=np.round(shares, 4),
        x=labels,
        y=labels,
        text=confusion.astype(str),
        colorscale="Blues",
        hovertemplate=hover,
        xgap=1 if len(labels) <= 30 else 0,
        ygap=1 if len(labels) <= 30 else 0,
    )
    if len(labels) <= 15:
        heatmap.texttemplate = "%{text}"
    side = max(420, min(1100, 9 * len(labels)))
    figure = go.Figure(heatmap)
    figure.update_xaxes(
        title="predicted", type="category", side="bottom", tickfont={"size": 9 if len(labels) > 30 else 12}
    )
    figure.update_yaxes(
        title="actual", type="category", autorange="reversed", tickfont={"size": 9 if len(labels) > 30 else 12}
    )
    return figure.update_layout(height=side + 120, width=side + 220, margin={"l": 120, "r": 20, "t": 20, "b": 120})


def _figure_html(figure: go.Figure) -> str:
    return figure.to_html(full_html=False, include_plotlyjs=False, config={"displaylogo": False, "responsive": True})


def _plotly_source() -> str:
    from plotly.offline import get_plotlyjs

    source: str = get_plotlyjs()
    return source
