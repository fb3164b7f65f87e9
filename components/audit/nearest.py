"""Which training images a network sees as most like an image: the nearest by the cosine of their bottlenecks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

# Rows of one block of queries and of the pool: their product is 16 MB, whatever the numbers of both.
BLOCK = 2048


class Nearest(NamedTuple):
    """For Q queries the K rows of the pool that are nearest, the nearest first: int64[Q, K], and cosines float32."""

    rows: np.ndarray
    cosines: np.ndarray


def find_nearest(queries: np.ndarray, pool: np.ndarray, count: int) -> Nearest:
    """Return the nearest of float32[P, D] to each of float32[Q, D], rows of length 1; K is count, or P if that is less.

    Of equal cosines the lower row comes first.
    """
    count = min(count, len(pool))
    blocks = [_search(queries[start : start + BLOCK], pool, count) for start in range(0, len(queries), BLOCK)]
    if not blocks:
        return Nearest(np.zeros((0, count), np.int64), np.zeros((0, count), np.float32))
    return Nearest(*map(np.concatenate, zip(*blocks, strict=True)))


def _search(queries: np.ndarray, pool: np.ndarray, count: int) -> Nearest:
    best = Nearest(np.zeros((len(queries), 0), np.int64), np.zeros((len(queries), 0), np.float32))
    for start, cosines in _multiply(queries, pool):
        rows = np.broadcast_to(np.arange(start, start + cosines.shape[1]), cosines.shape)
        rows, cosines = np.hstack([best.rows, rows]), np.hstack([best.cosines, cosines])
        order = np.argsort(-cosines, axis=1, kind="stable")[:, :count]
        best = Nearest(np.take_along_axis(rows, order, 1), np.take_along_axis(cosines, order, 1))
    return best


def _multiply(queries: np.ndarray, pool: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    for start in range(0, len(pool), BLOCK):
        yield start, queries @ pool[start : start + BLOCK].T
