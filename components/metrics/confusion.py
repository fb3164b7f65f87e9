"""Scores per class from a confusion matrix int[C, C], row actual, column predicted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.cluster.hierarchy import leaves_list, linkage  # type: ignore[import-untyped]
from scipy.spatial.distance import squareform  # type: ignore[import-untyped]

from components.terminal.text import join_names


class ClassRow(NamedTuple):
    """One row of classes.csv: scores in [0, 1], 0 where a class is never predicted or has no images."""

    label: str
    precision: float
    recall: float
    f1: float
    support: int


def score_classes(confusion: np.ndarray, labels: Sequence[str]) -> list[ClassRow]:
    """Return the scores of each of C classes from a confusion matrix int[C, C]."""
    hits, actual, predicted = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    precision, recall, f1 = hits / np.maximum([predicted, actual, (actual + predicted) / 2], 1)
    scores = (column.tolist() for column in (precision, recall, f1, actual))
    return [ClassRow(*row) for row in zip(labels, *scores, strict=True)]


def list_recalls(confusion: np.ndarray) -> np.ndarray:
    """Return the recalls float64[K] of the K classes that have images, in the order of classes."""
    actual = confusion.sum(1)
    return (np.diag(confusion) / np.maximum(actual, 1))[actual > 0]


def describe_weakest(confusion: np.ndarray, labels: Sequence[str]) -> str:
    """Return the class of lowest recall with its number of images, the largest class of equal recall, as text."""
    actual, recalls = confusion.sum(1), list_recalls(confusion)
    weakest = np.flatnonzero(actual)[recalls == recalls.min()]
    largest = weakest[actual[weakest].argmax()]
    more = f" and {len(weakest) - 1} more like it" if len(weakest) > 1 else ""
    return f"class '{labels[largest]}', {_count_images(actual[largest])}{more}"


def describe_unanswered(confusion: np.ndarray, labels: Sequence[str]) -> list[str]:
    """Return a sentence on the classes that have images and are never predicted, [] without such classes."""
    actual = confusion.sum(1)
    silent = np.flatnonzero((actual > 0) & (confusion.sum(0) == 0))
    if not silent.size:
        return []
    names = join_names([f"'{labels[index]}' ({_count_images(actual[index])})" for index in silent])
    which = "this class" if len(silent) == 1 else "these classes"
    return [f"The model never answers {names}: no test image of {which} is recognised."]


def _count_images(count: int) -> str:
    return f"{count:,} test image{'s' * (count != 1)}"


def most_confused(confusion: np.ndarray, labels: Sequence[str], count: int = 10) -> list[dict[str, Any]]:
    """Return the `count` largest off-diagonal cells of a confusion matrix int[C, C], as actual, predicted and count."""
    off = confusion - np.diag(np.diag(confusion))
    cells = sorted(zip(*np.nonzero(off), strict=True), key=lambda cell: (-off[cell], cell))[:count]
    return [{"actual": labels[a], "predicted": labels[p], "count": int(off[a, p])} for a, p in cells]


def order_by_confusion(confusion: np.ndarray) -> list[int]:
    """Return the C classes of a confusion matrix int[C, C] in an order that puts confused classes next to each other.

    It is the optimal leaf order of average linkage: Bar-Joseph, Gifford and Jaakkola, "Fast optimal leaf ordering for
    hierarchical clustering" (2001).
    """
    if len(confusion) < 3:
        return list(range(len(confusion)))
    fractions = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    distances = 1 - (fractions + fractions.T) / 2
    np.fill_diagonal(distances, 0)
    tree = linkage(squareform(distances, checks=False), "average", optimal_ordering=True)
    return [int(label) for label in leaves_list(tree)]
