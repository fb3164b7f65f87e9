"""The plots of the report: learning curves, confusion matrix, map of the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from components.features import SPLITS

# With more classes, Plotly writes their names small and leaves some out until a person zooms in.
NAMES_IN_FULL = 30
SIDE = 760  # pixels


def plot_history(history: Sequence[Mapping[str, str]], key: str, title: str = "") -> go.Figure:
    """Draw a column of history.csv, loss or accuracy, of train and validation over the epochs."""
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
    """Draw a confusion matrix int[C, C] as fractions of each actual class, counts on hover; the page adds colours."""
    few = len(labels) <= NAMES_IN_FULL
    shares = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    hover = "actual %{y}<br>predicted %{x}<br>%{text} images, %{z:.1%} of the class<extra></extra>"
    heatmap = go.Heatmap(
        z=np.round(shares, 4).tolist(),
        x=list(labels),
        y=list(labels),
        text=confusion.astype(str).tolist(),
        zmin=0,
        zmax=1,
        colorbar={"tickformat": ".0%", "title": {"text": "of the class"}, "thickness": 14},
        hovertemplate=hover,
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
    return figure.update_layout(
        height=side + 140, width=side + 260, margin={"l": 60, "r": 20, "t": 20, "b": 60}, template="plotly_white"
    )


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
    return figure.update_layout(
        height=640, template="plotly_white", margin={"l": 10, "r": 10, "t": 10, "b": 10}, legend={"orientation": "h"}
    )
