"""Find pairs of images that show the same, from their bottlenecks alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_matrix  # type: ignore[import-untyped]
from scipy.sparse.csgraph import connected_components  # type: ignore[import-untyped]

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


class Nearest(NamedTuple):
    """For each row the nearest of another label, -1 without one, int64[N], and its cosine, float32[N]."""

    rows: np.ndarray
    cosines: np.ndarray


class NearDuplicates(NamedTuple):
    """Of N rows the pairs that look alike: the closest of them, the number of all and of those in two splits.

    splits bool[N, S] tells in which splits a row has a near-duplicate, groups int64[N] which rows any chain of pairs
    links.
    """

    pairs: list[Pair]
    total: int
    leaks: int
    splits: np.ndarray
    groups: np.ndarray
    nearest: Nearest


class _Pairs(NamedTuple):
    rows_a: np.ndarray
    rows_b: np.ndarray
    cosines: np.ndarray


def find_near_duplicates(
    directions: np.ndarray,
    labels: np.ndarray,
    splits: np.ndarray,
    groups: np.ndarray,
    threshold: float,
    most: int = MOST_PAIRS,
) -> NearDuplicates:
    """Find the pairs of rows of float32[N, D] that look alike, and keep the closest, at most `most`, the closest first.

    These are all pairs whose cosine reaches the threshold in (0, 1], and pairs of different labels that are each
    other's nearest among all rows of other labels where it reaches the threshold less TWIN_MARGIN. labels int64[N] and
    splits int64[N] say of which a row is; rows of one group of int64[N] are linked from the start.
    """
    kept = _Pairs(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))
    nearest = Nearest(np.full(len(labels), -1), np.full(len(labels), -2, np.float32))
    beside = np.zeros((len(labels), splits.max(initial=-1) + 1), bool)
    count, leaks, floor = 0, 0, -1.0
    for rows_a, rows_b, cosines in _search(directions, labels, threshold, nearest):
        count += len(cosines)
        leaks += np.count_nonzero(splits[rows_a] != splits[rows_b])
        beside[rows_a, splits[rows_b]] = True
        beside[rows_b, splits[rows_a]] = True
        groups = join_groups(groups, rows_a, rows_b)
        close = cosines >= floor
        kept = _Pairs(*map(np.concatenate, zip(kept, (rows_a[close], rows_b[close], cosines[close]), strict=True)))
        if len(kept.cosines) > 2 * most:
            kept = _keep_closest(kept, most)
            floor = float(np.nextafter(kept.cosines[-1], np.float32(2)))
    rows_a, rows_b, cosines = _keep_closest(kept, most)
    cosines = np.minimum(cosines, 1)  # rounding carries the product of equal rows past 1
    pairs = [Pair(*pair) for pair in zip(rows_a.tolist(), rows_b.tolist(), cosines.tolist(), strict=True)]
    return NearDuplicates(pairs, count, int(leaks), beside, groups, nearest)


def _search(directions: np.ndarray, labels: np.ndarray, threshold: float, nearest: Nearest) -> Iterator[_Pairs]:
    """Yield all pairs, some at a time, and note the nearest of each row."""
    for start_a, start_b, cosines in _multiply_blocks(directions):
        at_a, at_b = np.nonzero(cosines >= threshold)
        if at_a.size:
            yield _Pairs(at_a + start_a, at_b + start_b, cosines[at_a, at_b])
        end_a, end_b = start_a + cosines.shape[0], start_b + cosines.shape[1]
        cosines[labels[start_a:end_a, None] == labels[start_b:end_b]] = -2
        _keep_nearest(nearest, start_a, start_b, cosines)
        _keep_nearest(nearest, start_b, start_a, cosines.T)
    yield _find_twins(nearest, threshold - TWIN_MARGIN, threshold)


def _multiply_blocks(directions: np.ndarray) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yield (first row, first column, cosines) of blocks that hold each pair of rows once; all else is -2 in them."""
    for start_a in range(0, len(directions), BLOCK):
        for start_b in range(start_a, len(directions), BLOCK):
            cosines = directions[start_a : start_a + BLOCK] @ directions[start_b : start_b + BLOCK].T
            if start_a == start_b:
                cosines[np.tril_indices(len(cosines))] = -2
            yield start_a, start_b, cosines


def _keep_closest(pairs: _Pairs, most: int) -> _Pairs:
    order = np.lexsort((pairs.rows_b, pairs.rows_a, -pairs.cosines))[:most]
    return _Pairs(*(column[order] for column in pairs))


def _keep_nearest(nearest: Nearest, start: int, other_start: int, cosines: np.ndarray) -> None:
    """Note, for the rows of a block from `start` on, those of its columns that are nearer than any so far."""
    columns = cosines.argmax(1)
    found = cosines[np.arange(len(cosines)), columns]
    closer = np.flatnonzero(found > nearest.cosines[start : start + len(cosines)])
    nearest.rows[start + closer] = other_start + columns[closer]
    nearest.cosines[start + closer] = found[closer]


def _find_twins(nearest: Nearest, low: float, high: float) -> _Pairs:
    """Return the rows that are each other's nearest, at a cosine in [low, high)."""
    rows = np.flatnonzero((nearest.cosines >= low) & (nearest.cosines < high))
    others = nearest.rows[rows]
    mutual = (nearest.rows[others] == rows) & (rows < others)
    return _Pairs(rows[mutual], others[mutual], nearest.cosines[rows[mutual]])


def join_groups(groups: np.ndarray, rows_a: np.ndarray, rows_b: np.ndarray) -> np.ndarray:
    """Return int64[N], the group of each row: the rows of a pair are in one, so are those of one group before."""
    apart = groups[rows_a] != groups[rows_b]
    if not apart.any():
        return groups
    ends = groups[rows_a[apart]], groups[rows_b[apart]]
    links = coo_matrix((np.ones(len(ends[0]), bool), ends), [groups.max() + 1] * 2)
    _, joined = connected_components(links, directed=False)
    return joined.astype(np.int64)[groups]
