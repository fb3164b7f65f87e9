"""Similarity of images to a backbone: the cosine of their bottlenecks, standardized over the images of a run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

# This many images of zeros are added to the mean. In a set of a few images, or of copies of one image, the mean is
# those images themselves, and nothing would remain after its subtraction.
PRIOR_IMAGES = 10
# This fraction of the mean variance is added to the variance of each dimension, so that a unit that almost never fires
# does not outweigh the others.
VARIANCE_FLOOR = 0.09
# Their cosines with a pool of 100,000 take 26 MB.
QUERIES_AT_ONCE = 64


class Standardization(NamedTuple):
    """The mean and the scale that standardize bottlenecks, each float32[D]."""

    mean: np.ndarray
    scale: np.ndarray


def to_embeddings(vectors: np.ndarray) -> np.ndarray:
    """Return bottlenecks float32[N, D] standardized over their rows and scaled to length 1; rows of zeros stay zeros.

    The plain cosine of bottlenecks is high for any two similar kinds of images: 0.82 for different handwritten digits.
    """
    return standardize(vectors, fit_standardization([vectors]))


def fit_standardization(blocks: Iterable[np.ndarray]) -> Standardization:
    """Return the standardization of all rows of blocks float32[N, D]."""
    count, total, squares = 0, np.zeros(()), np.zeros(())
    for block in blocks:
        count += len(block)
        total = total + block.sum(0, dtype=np.float64)
        squares = squares + np.einsum("nd,nd->d", block, block, dtype=np.float64)
    variance = np.maximum(squares / max(1, count) - (total / max(1, count)) ** 2, 0)
    scale = np.sqrt(variance + VARIANCE_FLOOR * variance.mean())
    mean = total / (max(1, count) + PRIOR_IMAGES)
    return Standardization(mean.astype(np.float32), np.where(scale == 0, 1, scale).astype(np.float32))


def standardize(vectors: np.ndarray, standardization: Standardization) -> np.ndarray:
    """Return float32[N, D] less the mean and over the scale, with each row scaled to length 1 unless it is zero."""
    embeddings: np.ndarray = vectors - standardization.mean
    embeddings /= standardization.scale
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return np.divide(embeddings, lengths, out=embeddings, where=lengths > 0)


class Nearest(NamedTuple):
    """For Q queries the K nearest rows of a pool int64[Q, K], the nearest first, and their cosines float32[Q, K]."""

    rows: np.ndarray
    cosines: np.ndarray


def find_nearest(queries: np.ndarray, pool: np.ndarray, count: int) -> Nearest:
    """Return the K nearest of unit rows float32[P, D] to each of float32[Q, D]; K is the lesser of count and P.

    Of equal cosines the lower row comes first.
    """
    found = Nearest(*(np.zeros((len(queries), min(count, len(pool))), kind) for kind in (np.int64, np.float32)))
    for start in range(0, len(queries), QUERIES_AT_ONCE):
        block = slice(start, start + QUERIES_AT_ONCE)
        cosines = queries[block] @ pool.T
        found.rows[block] = np.argsort(-cosines, axis=1, kind="stable")[:, :count]
        found.cosines[block] = np.take_along_axis(cosines, found.rows[block], 1)
    return found
