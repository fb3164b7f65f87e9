"""Scaling of bottlenecks before the head, and its measurement on the training split."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
from scipy.linalg import cholesky, lapack  # type: ignore[import-untyped]
from scipy.sparse import csr_matrix  # type: ignore[import-untyped]

from components.shards.bottlenecks import Vectors
from components.train.model import L2, STANDARDIZE, TRAINING_SCOPE, WHITEN

MEAN, SCALE, WHITENING = (f"{TRAINING_SCOPE}/{name}" for name in ("mean", "scale", "whitening"))
# The variables of each kind of scaling.
MEASURED = {STANDARDIZE: (MEAN, SCALE), WHITEN: (WHITENING,)}

# Values of the head's variables by name.
Variables = dict[str, np.ndarray]
ReadParts = Callable[[], Iterable[Vectors]]


def measure_scaling(read_parts: ReadParts, kind: str, classes: int) -> Variables:
    """Return the variables of a kind of scaling, measured on bottlenecks; read_parts is called once or twice."""
    if kind == STANDARDIZE:
        return measure_standardization(read_parts())
    if kind == WHITEN:
        return {WHITENING: measure_whitening(read_parts, classes)}
    return {}


def measure_standardization(parts: Iterable[Vectors]) -> Variables:
    """Return float32[D] each: mean and 1 / standard deviation of each dimension; the scale of a constant one is 1."""
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler()
    for values, _ in parts:
        scaler.partial_fit(values.reshape(-1, values.shape[-1]).astype(np.float64))
    return {MEAN: scaler.mean_.astype(np.float32), SCALE: (1 / scaler.scale_).astype(np.float32)}


def measure_whitening(read_parts: ReadParts, classes: int) -> np.ndarray:
    """Return float32[D, D], a map of bottlenecks of length sqrt(D) after which classes spread alike in all directions.

    It whitens by the covariance within classes and keeps the mean square of lengths. The covariance is shrunk to its
    mean variance by choose_shrinkage.
    """

    def examples() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for values, labels in read_parts():  # each view is an example
            yield normalize_lengths(values.reshape(-1, values.shape[-1])), np.repeat(labels, values.shape[1])

    sums, counts = np.zeros(1), np.zeros(classes)
    for values, labels in examples():
        # Sparse: a dense matrix of classes by images would be larger than many bottlenecks are.
        ones, rows = np.ones(len(labels), np.float32), np.arange(len(labels) + 1)
        sums = sums + csr_matrix((ones, labels, rows), (len(labels), classes)).T @ values
        counts += np.bincount(labels, minlength=classes)
    means = (sums / np.maximum(counts, 1)[:, None]).astype(np.float32)
    count, dim = counts.sum(), means.shape[1]
    scatter = np.zeros((dim, dim), np.float32)
    for values, labels in examples():
        residuals = values - means[labels]
        scatter += residuals.T @ residuals
    variance = float(np.trace(scatter)) / count / dim
    if variance <= 1e-12:  # one image per class, or copies of it
        return np.eye(dim, dtype=np.float32)
    shrinkage = choose_shrinkage(dim, count - np.count_nonzero(counts))
    # The shrunk covariance is at least half a mean variance in each direction, so float32 is enough.
    shrunk = scatter * np.float32((1 - shrinkage) / count)
    shrunk[np.diag_indices(dim)] += shrinkage * variance
    root = cholesky(shrunk.T, lower=True, overwrite_a=True, check_finite=False)
    inverse, _ = lapack.strtri(root, lower=1, overwrite_c=1)
    whitening: np.ndarray = inverse.T
    between = float(counts @ np.square(means @ whitening).sum(1)) / count
    within = (dim - shrinkage * variance * float(np.square(whitening).sum(dtype=np.float64))) / (1 - shrinkage)
    whitening *= np.float32((dim / (between + within)) ** 0.5)
    return whitening


def choose_shrinkage(dim: int, freedom: float) -> float:
    """Return the fraction by which a covariance of some degrees of freedom is replaced by its mean variance.

    The fewer images, the more. The rule, and not less than a half, did best over the sets of benchmarks/heads.py (at
    64 images of 1,280 numbers nine tenths are better than a half, at 5,000 a half is as good as three quarters).
    """
    return max(0.5, dim / (dim + freedom / 2))


def normalize_lengths(values: np.ndarray) -> np.ndarray:
    """Scale vectors float32[..., D] to length sqrt(D)."""
    lengths = np.linalg.norm(values, axis=-1, keepdims=True)
    scaled: np.ndarray = values * (values.shape[-1] ** 0.5 / np.maximum(lengths, 1e-6))
    return scaled


def scale_vectors(values: np.ndarray, kind: str, scaling: Variables) -> np.ndarray:
    """Scale float32[..., D] as normalize_bottleneck does in the graph."""
    if kind == STANDARDIZE:
        return (values - scaling[MEAN]) * scaling[SCALE]
    if kind in (L2, WHITEN):
        values = normalize_lengths(values)
    if kind == WHITEN:  # as one product: numpy would multiply each image's views alone
        return (values.reshape(-1, values.shape[-1]) @ scaling[WHITENING]).reshape(values.shape)
    return values
