"""Find labels that the bottlenecks of all other images contradict."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

# Strengths of the penalty to choose from, in units of the mean eigenvalue.
PENALTIES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
# By how much another label must score above the given one. Of Caltech-101 as it is, that names 0.5 %; with 5 % of the
# training labels swapped, it names 89 % of those, and 96 % of the training images it names are such. Thresholds on
# calibrated probabilities (confident learning; odds) depend on the number of classes and on the share of wrong labels.
LEAST_MARGIN = 0.3
# Groups of images that a class needs for its labels to be judged: without the image in question too little is left of
# smaller ones. Of classes cut down to 2, 3, 5, 8 and 20 images of Caltech-101, it names 11, 9, 5, 2 and 0.6 %.
FEWEST_GROUPS = 5
# Dimensions up to which the eigenvectors of the bottlenecks are computed (4096: 15 s on two cores, cubic); wider ones
# are projected onto so many random directions, which keeps their products up to a spread of 1/sqrt(4096).
WIDEST = 4096


class LabelIssue(NamedTuple):
    """A row whose label is doubtful, the label that the other images suggest, and their confidence in both, [0, 1]."""

    row: int
    suggested: int
    label_confidence: float
    suggested_confidence: float


def find_label_issues(directions: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> list[LabelIssue]:
    """Return the doubtful labels among int64[N], the most doubtful first, judged by directions float32[N, D].

    Rows of one group of int64[N] do not testify for each other; labels of classes with too few groups are not judged.
    """
    judged = find_judged(labels, groups)
    if not judged.any():
        return []
    scores = predict_left_out(directions, labels, groups, judged)
    rows, suggested = np.arange(len(labels)), scores.argmax(1)
    margins = scores[rows, suggested] - scores[rows, labels]
    doubtful = np.flatnonzero(judged & (margins >= LEAST_MARGIN))
    confidences = np.clip(scores, 0, 1)
    return [
        LabelIssue(
            int(row),
            int(suggested[row]),
            float(confidences[row, labels[row]]),
            float(confidences[row, suggested[row]]),
        )
        for row in doubtful[np.argsort(-margins[doubtful], kind="stable")]
    ]


def find_judged(labels: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return bool[N]: whether a row's class has images in enough groups for its labels to be judged."""
    classes = np.unique(np.stack([labels, groups]), axis=1)[0]
    return np.bincount(classes, minlength=labels.max(initial=0) + 1)[labels] >= FEWEST_GROUPS


def predict_left_out(directions: np.ndarray, labels: np.ndarray, groups: np.ndarray, judged: np.ndarray) -> np.ndarray:
    """Return scores float32[N, C] near [0, 1]: what a ridge regression without the rows of its group says of each row.

    Leaving out needs no refit: with H the matrix that takes targets to their fit, the residuals of left-out rows are
    (I - H)^-1 times those of the fit, H taken at the group's rows (Allen's PRESS, Technometrics 1974). The penalty is
    the one of least squared residuals of the judged rows.
    """
    targets = np.zeros((len(labels), labels.max() + 1), np.float32)
    targets[np.arange(len(labels)), labels] = 1
    components, eigenvalues = find_components(directions)
    projected = components.T @ (targets - targets.mean(0))
    members = list_members(groups)
    best, least = targets, np.inf
    for penalty in PENALTIES:
        weights = 1 / (eigenvalues + penalty * (eigenvalues.mean() or 1))
        residuals = targets - targets.mean(0) - components @ (weights[:, None] * projected)
        _leave_out(residuals, components, weights, members)
        error = np.square(residuals[judged]).sum(dtype=np.float64)
        if error < least:
            best, least = targets - residuals, error
    return best


def find_components(directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the principal components of float32[N, D] as float32[N, R] and their eigenvalues, R = min(N, D)."""
    if min(directions.shape) > WIDEST:
        projection = np.random.default_rng(0).standard_normal((directions.shape[1], WIDEST), np.float32)
        directions = directions @ projection
    centred = directions - directions.mean(0)
    if len(centred) > centred.shape[1]:
        eigenvalues, vectors = np.linalg.eigh(centred.T @ centred)
        return centred @ vectors, np.maximum(eigenvalues, 0)
    eigenvalues, vectors = np.linalg.eigh(centred @ centred.T)
    eigenvalues = np.maximum(eigenvalues, 0)
    return vectors * np.sqrt(eigenvalues), eigenvalues


def list_members(groups: np.ndarray) -> list[np.ndarray]:
    """Return the rows of each group of int64[N] that has more than one."""
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[order])) + 1
    return [rows for rows in np.split(order, starts) if len(rows) > 1]


def _leave_out(residuals: np.ndarray, components: np.ndarray, weights: np.ndarray, members: list[np.ndarray]) -> None:
    """Turn the residuals of the fit, in place, into those of each row by the fit without its group."""
    share = 1 / len(residuals)  # of the mean, which is fitted too
    leverages = np.einsum("nd,nd,d->n", components, components, weights) + share
    together = [_solve_group(residuals[rows], components[rows] * np.sqrt(weights), share) for rows in members]
    residuals /= 1 - leverages[:, None]
    for rows, left_out in zip(members, together, strict=True):
        residuals[rows] = left_out


def _solve_group(residuals: np.ndarray, scaled: np.ndarray, share: float) -> np.ndarray:
    basis = np.hstack([scaled, np.full((len(scaled), 1), np.sqrt(share))]).astype(np.float64)
    if len(basis) <= basis.shape[1]:
        return np.linalg.solve(np.eye(len(basis)) - basis @ basis.T, residuals)
    # The same by Woodbury's identity, where the group has more rows than dimensions.
    return residuals + basis @ np.linalg.solve(np.eye(basis.shape[1]) - basis.T @ basis, basis.T @ residuals)
