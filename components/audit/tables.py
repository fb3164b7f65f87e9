"""The rows of the tables of audit/, and the sentence on images that no model can distinguish."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from components.audit.data_map import project_embeddings, sample_rows
from components.audit.label_errors import LabelIssue
from components.audit.near_duplicates import NearestOther
from components.audit.similarity import find_nearest
from components.features import COPY, LABEL_CONFLICT, LEAK

NEAREST_SHOWN = 3
# Cosine of two bottlenecks that are equal up to the rounding of float32 in the network and here.
EQUAL = 1 - 1e-5


class Image(NamedTuple):
    """The columns that describe an image in the tables."""

    path: str
    label: str
    split: str


class PairRow(NamedTuple):
    """One row of near_duplicates.csv."""

    cosine: str
    path: str
    label: str
    split: str
    other_path: str
    other_label: str
    other_split: str
    kind: str  # label_conflict (two classes), else leak (two splits), else copy


class LabelRow(NamedTuple):
    """One row of suspicious_labels.csv, with the confidence in [0, 1] that the other images give to both labels."""

    path: str
    label: str
    split: str
    suggested: str
    label_confidence: str
    suggested_confidence: str


def describe_equal(nearest: NearestOther, images: Sequence[Image]) -> list[str]:
    """Return a sentence on images that share their bottleneck with an image of another class, [] without any."""
    equal = np.flatnonzero(nearest.cosines >= EQUAL)
    if not equal.size:
        return []
    row = min(equal, key=lambda row: images[row].path)
    one, other = images[row], images[nearest.rows[row]]
    return [
        f"{len(equal):,} images of different classes have equal bottlenecks, so the model cannot distinguish them: "
        f"the first are '{one.path}' ({one.label}) and '{other.path}' ({other.label})."
    ]


def describe_pairs(pairs: Sequence[tuple[int, int, float]], images: Sequence[Image]) -> list[PairRow]:
    """Return the rows of pairs sorted by falling cosine: leaks and label conflicts before copies within a class."""
    rows = []
    for row_a, row_b, cosine in pairs:
        one, other = images[row_a], images[row_b]
        kind = LABEL_CONFLICT if one.label != other.label else LEAK if one.split != other.split else COPY
        rows.append(PairRow(f"{cosine:.4f}", *one, *other, kind))
    return sorted(rows, key=lambda row: row.kind == COPY)


def describe_issues(issues: Sequence[LabelIssue], images: Sequence[Image], labels: Sequence[str]) -> list[LabelRow]:
    """Return the rows of doubtful labels in their order."""
    return [
        LabelRow(*images[row], labels[suggested], *(f"{confidence:.4f}" for confidence in confidences))
        for row, suggested, *confidences in issues
    ]


def describe_nearest(embeddings: np.ndarray, images: Sequence[Image]) -> Iterator[tuple[str, ...]]:
    """Yield (path, nearest path, its class, cosine) of each test image and the training images nearest to it.

    embeddings are unit vectors float32[N, D]; the nearest image comes first.
    """
    tests, trained = ([row for row, image in enumerate(images) if image.split == split] for split in ("test", "train"))
    nearest = find_nearest(embeddings[tests], embeddings[trained], NEAREST_SHOWN)
    for test, rows, cosines in zip(tests, nearest.rows.tolist(), nearest.cosines, strict=True):
        for row, cosine in zip(rows, cosines, strict=True):
            near = images[trained[row]]
            yield images[test].path, near.path, near.label, f"{cosine:.4f}"


def describe_map(embeddings: np.ndarray, images: Sequence[Image]) -> list[tuple[str, ...]]:
    """Return (path, class, split, x, y) of a random sample of images with embeddings float32[N, D]."""
    rows = sample_rows(len(images))
    points = project_embeddings(embeddings[rows])
    return [(*images[row], f"{x:.2f}", f"{y:.2f}") for row, (x, y) in zip(rows, points, strict=True)]
