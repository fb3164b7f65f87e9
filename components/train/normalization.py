"""How bottlenecks are scaled before the head, as far as it is measured on the training split."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from scipy.linalg import cholesky, lapack  # type: ignore[import-untyped]
from scipy.sparse import csr_matrix  # type: ignore[import-untyped]

from components.shards.bottlenecks import Vectors
from components.train.model import L2, STANDARDIZE, TRAINING_SCOPE, WHITEN

MEAN, SCALE, WHITENING = (f"{TRAINING_SCOPE}/{name}" for name in ("mean", "scale", "whitening"))
# The variables of each kind of scaling.
MEASURED = {STANDARDIZE: (MEAN, SCALE), WHITEN: (WHITENING,)}

Scaling = dict[str, np.ndarray]
Read = Callable[[], Iterable[Vectors]]


def measure_scaling(read: Read, kind: str, classes: int) -> Scaling:
    """Return the variables of a kind of scaling, by name, measured on bottlenecks that can be read again and again."""
    if kind == STANDARDIZE:
        return measure_deviations(read())
    if kind == WHITEN:
        return {WHITENING: measure_whitening(read, classes)}
    return {}


def measure_deviations(parts: Iterable[Vectors]) -> Scaling:
    """Return mean and one over the deviation of each dimension of bottlenecks; a dimension that is constant keeps 1."""
    count, first, total, squares = 0, np.zeros(1), np.zeros(1), np.zeros(1)
    for values, _ in parts:
        flat = values.reshape(-1, values.shape[-1]).astype(np.float64)
        # Distances from the first, not values: what rounding leaves of a constant would pass for a deviation.
        first = first if count else flat[0]
        flat = flat - first
        count, total, squares = count + len(flat), total + flat.sum(0), squares + np.square(flat).sum(0)
    mean = total / count
    deviation = np.sqrt(np.maximum(squares / count - np.square(mean), 0))
    scale = 1 / np.where(deviation > 0, deviation, 1)
    return {MEAN: (first + mean).astype(np.float32), SCALE: scale.astype(np.float32)}


def measure_whitening(read: Read, classes: int) -> np.ndarray:
    """Return float32[D, D] that maps bottlenecks of length sqrt(D) to where images of a class spread alike in all ways.

    It whitens by the covariance within classes, shrunk half-way to its mean variance since D may exceed the images
    (Ledoit and Wolf 2004 estimate the share; on Caltech-101 shares from a half to three quarters did equally well), and
    keeps the mean square of lengths. Regularised, a linear head then trusts what tells classes apart and no image.
    """
    sums, counts = np.zeros(1), np.zeros(classes)
    for values, labels in read():
        sums = sums + _sum_classes(_flatten(values), _repeat(labels, values), classes)
        counts += np.bincount(_repeat(labels, values), minlength=classes)
    means = (sums / np.maximum(counts, 1)[:, None]).astype(np.float32)
    count, dim = counts.sum(), means.shape[1]
    scatter = np.zeros((dim, dim), np.float32)
    for values, labels in read():
        residuals = _flatten(values) - means[_repeat(labels, values)]
        scatter += residuals.T @ residuals
    variance = float(np.trace(scatter)) / count / dim
    if variance <= 1e-12:  # a single image a class, or copies of it
        return np.eye(dim, dtype=np.float32)
    # Half of what is left is at least a mean variance in each direction, so float32 is enough.
    shrunk = scatter / np.float32(count)
    shrunk[np.diag_indices(dim)] += variance
    root = cholesky(shrunk.T, lower=True, overwrite_a=True, check_finite=False)
    inverse, _ = lapack.strtri(root, lower=1, overwrite_c=1)
    whitening: np.ndarray = inverse.T
    between = float(counts @ np.square(means @ whitening).sum(1)) / count
    within = dim - variance * float(np.square(whitening).sum(dtype=np.float64))
    whitening *= np.float32((dim / (between + within)) ** 0.5)
    return whitening


def _flatten(values: np.ndarray) -> np.ndarray:
    return normalize_lengths(values.reshape(-1, values.shape[-1]))


def _repeat(labels: np.ndarray, values: np.ndarray) -> np.ndarray:
    return np.repeat(labels, values.shape[1])  # each view is an example


def _sum_classes(flat: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    # Sparse: a dense matrix of classes by images would be larger than many bottlenecks are.
    one_hot = csr_matrix((np.ones(len(labels), np.float32), labels, np.arange(len(labels) + 1)), (len(labels), classes))
    sums: np.ndarray = one_hot.T @ flat
    return sums


def normalize_lengths(values: np.ndarray) -> np.ndarray:
    """Scale float32[N, D] to length sqrt(D)."""
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    scaled: np.ndarray = values * (values.shape[1] ** 0.5 / np.maximum(lengths, 1e-6))
    return scaled


def scale_vectors(values: np.ndarray, kind: str, scaling: Scaling) -> np.ndarray:
    """Scale float32[N, D] as normalize_bottleneck does in the graph."""
    if kind == L2:
        return normalize_lengths(values)
    if kind == WHITEN:
        return normalize_lengths(values) @ scaling[WHITENING]
    if kind == STANDARDIZE:
        return (values - scaling[MEAN]) * scaling[SCALE]
    return values
