"""The data with which the page of the report lists the images behind a number."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from components.metrics.confusion import order_by_confusion
from components.report.content import Content, TableRow

# Test images that the page can list behind its numbers; with so many it has 11 MB (benchmarks/large_report.py).
MOST_IN_PAGE = 10_000


def gather_page_data(content: Content) -> dict[str, Any]:
    """Return the data with which the page's script lists the images behind a number, MOST_IN_PAGE of them at most."""
    predictions, labels = content.predictions, content.results.examples.labels
    index = {label: number for number, label in enumerate(labels)}
    listed = [predictions[row] for row in choose_listed(predictions, MOST_IN_PAGE)]
    return {
        "labels": labels,
        "confusion": content.confusion.tolist(),
        "similar": order_by_confusion(content.confusion),
        "paths": [row["path"] for row in listed],
        "actual": [index[row["actual"]] for row in listed],
        "predicted": [index[row["label"]] for row in listed],
        "probability": [round(float(row["probability"]), 4) for row in listed],
    }


def choose_listed(predictions: Sequence[TableRow], most: int) -> list[int]:
    """Return which rows to list, in order: of each cell of the confusion matrix the most probable, as many of each.

    So all mistakes are there where few images are of their kind, and what is left out are images recognised as others.
    """
    cells: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    for row in sorted(range(len(predictions)), key=lambda row: -float(predictions[row]["probability"])):
        cells[predictions[row]["actual"], predictions[row]["label"]].append(row)
    ranked = sorted((rank, row) for rows in cells.values() for rank, row in enumerate(rows))
    return sorted(row for _, row in ranked[:most])
