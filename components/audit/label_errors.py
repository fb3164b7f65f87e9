"""Find labels that contradict the bottlenecks of all other images."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

# Strengths of the ridge penalty to choose from, in units of the mean eigenvalue.
RIDGE_PENALTIES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
# The margin by which another label must score above the given one. Of Caltech-101 as it is, 0.5 % of the labels are
# named. With 5 % of the training labels swapped, 89 % of those are named, and 96 % of the named training images are
# swapped ones. Thresholds on calibrated probabilities (confident learning; odds) depend on the number of classes and on
# the fraction of wrong labels.
LEAST_MARGIN = 0.3
# Labels of a class are checked if it has images in this many groups: without the image in question, too little is left
# of smaller ones. Of classes reduced to 2, 3, 5, 8 and 20 images of Caltech-101, 11, 9, 5, 2 and 0.6 % are named.
FEWEST_GROUPS = 5
# The eigenvectors of bottlenecks up to this width are computed (4096: 15 s on two cores, cubic). Wider ones are
# projected onto this many random directions, which keeps their products up to a standard deviation of 1/sqrt(4096).
WIDEST = 4096


class LabelIssue(NamedTuple):
    """A row whose label is doubtful, the label that the other images suggest, and their confidence in both, [0, 1]."""

    row: int
    suggested: int
    label_confidence: float
    suggested_confidence: float


def find_label_issues(embeddings: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> list[LabelIssue]:
    """Return the doubtful labels among int64[N], the most doubtful first, from unit embeddings float32[N, D].

    Rows of the same group of int64[N] are left out together; labels of classes with too few groups are not checked.
    """
    checked = find_checked(labels, groups)
    if not checked.any():
        return []
    scores = predict_left_out(embeddings, labels, groups, checked)
    rows, suggested = np.arange(len(labels)), scores.argmax(1)
    margins = scores[rows, suggested] - scores[rows, labels]
    doubtful = np.flatnonzero(checked & (margins >= LEAST_MARGIN))
    doubtful = doubtful[np.argsort(-margins[doubtful], kind="stable")]
    confidences = (np.clip(scores[doubtful, of[doubtful]], 0, 1) for of in (labels, suggested))
    columns = (column.tolist() for column in (doubtful, suggested[doubtful], *confidences))
    return list(map(LabelIssue, *columns))


def find_checked(labels: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return bool[N]: whether the class of each row has images in enough groups for its labels to be checked."""
    classes = np.unique(np.stack([labels, groups]), axis=1)[0]
    return np.bincount(classes, minlength=labels.max(initial=0) + 1)[labels] >= FEWEST_GROUPS


def predict_left_out(embeddings: np.ndarray, labels: np.ndarray, groups: np.ndarray, checked: np.ndarray) -> np.ndarray:
    """Return class scores float32[N, C] near [0, 1], each row by a ridge regression without the rows of its group.

    Leaving out needs no refit: with H the matrix that maps targets to their fit, the residuals of left-out rows are
    (I - H)^-1 times those of the fit, H restricted to the rows of the group (Allen's PRESS, Technometrics 1974). The
    penalty with the least squared residuals of the checked rows is chosen.
    """
    targets = np.zeros((len(labels), labels.max() + 1), np.float32)
    targets[np.arange(len(labels)), labels] = 1
    components, eigenvalues = find_principal_components(embeddings)
    projected = components.T @ (targets - targets.mean(0))
    order = np.argsort(groups, kind="stable")
    members = [rows for rows in np.split(order, np.flatnonzero(np.diff(groups[order])) + 1) if len(rows) > 1]
    best, least = targets, np.inf
    for penalty in RIDGE_PENALTIES:
        weights = 1 / (eigenvalues + penalty * (eigenvalues.mean() or 1))
        residuals = targets - targets.mean(0) - components @ (weights[:, None] * projected)
        _leave_out(residuals, components, weights, members)
        error = np.square(residuals[checked]).sum(dtype=np.float64)
        if error < least:
            best, least = targets - residuals, error
    return best


def find_principal_components(embeddings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the principal components float32[N, R] of float32[N, D] and their eigenvalues, R = min(N, D)."""
    if min(embeddings.shape) > WIDEST:
        embeddings = embeddings @ np.random.default_rng(0).standard_normal((embeddings.shape[1], WIDEST), np.float32)
    centred = embeddings - embeddings.mean(0)
    tall = len(centred) > centred.shape[1]
    eigenvalues, vectors = np.linalg.eigh(centred.T @ centred if tall else centred @ centred.T)
    eigenvalues = np.maximum(eigenvalues, 0)
    return centred @ vectors if tall else vectors * np.sqrt(eigenvalues), eigenvalues


def _leave_out(residuals: np.ndarray, components: np.ndarray, weights: np.ndarray, members: list[np.ndarray]) -> None:
    """Replace the residuals of the fit, in place, by the residual of each row in the fit without its group."""
    of_mean = 1 / len(residuals)  # the leverage of the mean, which is fitted too
    leverages = np.einsum("nd,nd,d->n", components, components, weights) + of_mean
    together = [_solve_group(residuals[rows], components[rows] * np.sqrt(weights), of_mean) for rows in members]
    residuals /= 1 - leverages[:, None]
    for rows, left_out in zip(members, together, strict=True):
        residuals[rows] = left_out


def _solve_group(residuals: np.ndarray, scaled: np.ndarray, of_mean: float) -> np.ndarray:
    basis = np.hstack([scaled, np.full((len(scaled), 1), np.sqrt(of_mean))]).astype(np.float64)
    if len(basis) <= basis.shape[1]:
        return np.linalg.solve(np.eye(len(basis)) - basis @ basis.T, residuals)
    # The same by Woodbury's identity, where the group has more rows than dimensions.
    return residuals + basis @ np.linalg.solve(np.eye(basis.shape[1]) - basis.T @ basis, basis.T @ residuals)
