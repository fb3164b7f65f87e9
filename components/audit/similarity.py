"""How alike images look to a backbone: the cosine of their bottlenecks, standardised over the images of a run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

# As if so many images of zeros stood with the data: in a set of a few images or of a single one many times over, the
# mean is those very images, and nothing would be left after taking it away.
PRIOR_IMAGES = 10
# Share of the mean variance that each dimension is given on top of its own, so that a unit that almost never fires
# does not outweigh the others.
VARIANCE_FLOOR = 0.09
# Queries compared at once: their cosines with a pool of 100,000 take 26 MB.
BLOCK = 64


class Spread(NamedTuple):
    """What bottlenecks are standardised with: a mean and a scale, float32[D]."""

    mean: np.ndarray
    scale: np.ndarray


def to_directions(vectors: np.ndarray) -> np.ndarray:
    """Return float32[N, D] standardised over the rows, each then of length 1; a row without direction stays zeros.

    The plain cosine of images of one kind is high whatever they show: 0.82 between different handwritten digits.
    """
    return standardise(vectors, measure_spread([vectors]))


def measure_spread(blocks: Iterable[np.ndarray]) -> Spread:
    """Return the spread of all rows of some blocks float32[N, D]."""
    count, total, squares = 0, np.zeros(()), np.zeros(())
    for block in blocks:
        count += len(block)
        total = total + block.sum(0, dtype=np.float64)
        squares = squares + np.einsum("nd,nd->d", block, block, dtype=np.float64)
    variance = np.maximum(squares / max(1, count) - (total / max(1, count)) ** 2, 0)
    scale = np.sqrt(variance + VARIANCE_FLOOR * variance.mean())
    mean = total / (max(1, count) + PRIOR_IMAGES)
    return Spread(mean.astype(np.float32), np.where(scale == 0, 1, scale).astype(np.float32))


def standardise(vectors: np.ndarray, spread: Spread) -> np.ndarray:
    """Return float32[N, D] less the mean and over the scale, each row then of length 1 or zeros."""
    directions: np.ndarray = vectors - spread.mean
    directions /= spread.scale
    lengths = np.linalg.norm(directions, axis=1, keepdims=True)
    directions /= np.where(lengths > 0, lengths, 1)
    return directions


class Nearest(NamedTuple):
    """For Q queries the K rows of the pool that are nearest, the nearest first: int64[Q, K], and cosines float32."""

    rows: np.ndarray
    cosines: np.ndarray


def find_nearest(queries: np.ndarray, pool: np.ndarray, count: int) -> Nearest:
    """Return the nearest of float32[P, D] to each of float32[Q, D], rows of length 1; K is count, or P if that is less.

    Of equal cosines the lower row comes first.
    """
    found = Nearest(*(np.zeros((len(queries), min(count, len(pool))), kind) for kind in (np.int64, np.float32)))
    for start in range(0, len(queries), BLOCK):
        cosines = queries[start : start + BLOCK] @ pool.T
        rows = np.argsort(-cosines, axis=1, kind="stable")[:, :count]
        found.rows[start : start + BLOCK] = rows
        found.cosines[start : start + BLOCK] = np.take_along_axis(cosines, rows, 1)
    return found
