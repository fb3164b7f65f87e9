"""Find pairs of images that show the same, from their bottlenecks alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

# Rows of one block: its product is 16 MB, so memory stays that of the bottlenecks whatever their number.
BLOCK = 2048
# Pairs kept, the closest: beyond that nobody reads on, and data whose images are all alike has N * N / 2 of them.
MOST_PAIRS = 10_000
# Images of different classes are seldom each other's nearest, so less similarity tells as much. Measured on
# Caltech-101: of 99 such pairs from 0.80 on, 97 show one photo or one person in a row of shots.
TWIN_MARGIN = 0.12


class Pair(NamedTuple):
    """Two rows that look alike, row_a < row_b, and their cosine."""

    row_a: int
    row_b: int
    cosine: float


class _Pairs(NamedTuple):
    rows_a: np.ndarray
    rows_b: np.ndarray
    cosines: np.ndarray


class _Nearest(NamedTuple):
    rows: np.ndarray
    cosines: np.ndarray


def find_near_duplicates(
    directions: np.ndarray, labels: np.ndarray, threshold: float, most: int = MOST_PAIRS
) -> list[Pair]:
    """Return the pairs of rows of float32[N, D], labelled int64[N], that look alike, the closest first, at most `most`.

    These are all pairs whose cosine reaches the threshold in (0, 1], and pairs of different labels that are each
    other's nearest among all rows of other labels where it reaches the threshold less TWIN_MARGIN.
    """
    pairs = _Pairs(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))
    nearest = _Nearest(np.full(len(labels), -1), np.full(len(labels), -2, np.float32))
    floor = threshold
    for start_a, start_b, cosines in _multiply_blocks(directions):
        at_a, at_b = np.nonzero(cosines >= floor)
        pairs = _join(pairs, _Pairs(at_a + start_a, at_b + start_b, cosines[at_a, at_b]))
        if len(pairs.cosines) > 2 * most:
            pairs = _keep_closest(pairs, most)
            floor = float(np.nextafter(pairs.cosines[-1], np.float32(2)))
        end_a, end_b = start_a + cosines.shape[0], start_b + cosines.shape[1]
        cosines[labels[start_a:end_a, None] == labels[start_b:end_b]] = -2
        _keep_nearest(nearest, start_a, start_b, cosines)
        _keep_nearest(nearest, start_b, start_a, cosines.T)
    pairs = _keep_closest(_join(pairs, _find_twins(nearest, threshold - TWIN_MARGIN, threshold)), most)
    cosines = np.minimum(pairs.cosines, 1)  # rounding carries the product of equal rows past 1
    return [Pair(*pair) for pair in zip(pairs.rows_a.tolist(), pairs.rows_b.tolist(), cosines.tolist())]


def _multiply_blocks(directions: np.ndarray) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yield (first row, first column, cosines) of blocks that hold each pair of rows once; all else is -2 in them."""
    for start_a in range(0, len(directions), BLOCK):
        for start_b in range(start_a, len(directions), BLOCK):
            cosines = directions[start_a : start_a + BLOCK] @ directions[start_b : start_b + BLOCK].T
            if start_a == start_b:
                cosines[np.tril_indices(len(cosines))] = -2
            yield start_a, start_b, cosines


def _join(pairs: _Pairs, more: _Pairs) -> _Pairs:
    return _Pairs(*(np.concatenate(columns) for columns in zip(pairs, more)))


def _keep_closest(pairs: _Pairs, most: int) -> _Pairs:
    order = np.lexsort((pairs.rows_b, pairs.rows_a, -pairs.cosines))[:most]
    return _Pairs(*(column[order] for column in pairs))


def _keep_nearest(nearest: _Nearest, start: int, other_start: int, cosines: np.ndarray) -> None:
    """Note, for the rows of a block from `start` on, those of its columns that are nearer than any so far."""
    columns = cosines.argmax(1)
    found = cosines[np.arange(len(cosines)), columns]
    closer = np.flatnonzero(found > nearest.cosines[start : start + len(cosines)])
    nearest.rows[start + closer] = other_start + columns[closer]
    nearest.cosines[start + closer] = found[closer]


def _find_twins(nearest: _Nearest, low: float, high: float) -> _Pairs:
    """Return the rows that are each other's nearest, at a cosine in [low, high)."""
    rows = np.flatnonzero((nearest.cosines >= low) & (nearest.cosines < high))
    others = nearest.rows[rows]
    mutual = (nearest.rows[others] == rows) & (rows < others)
    return _Pairs(rows[mutual], others[mutual], nearest.cosines[rows[mutual]])


def group_rows(names: Sequence[bytes], pairs: Sequence[Pair]) -> np.ndarray:
    """Return int64[N], the group of each row: equal names are in one group, so are the rows of a pair, and so on."""
    _, groups = np.unique(np.array(names, dtype=object), return_inverse=True)
    leaders = list(range(len(names)))

    def find_leader(group: int) -> int:
        while leaders[group] != group:
            leaders[group] = group = leaders[leaders[group]]
        return group

    for pair in pairs:
        leaders[find_leader(groups[pair.row_a])] = find_leader(groups[pair.row_b])
    return np.array([find_leader(group) for group in groups], np.int64)
