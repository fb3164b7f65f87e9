"""Find pairs of near-duplicate images by the cosine of their bottlenecks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_matrix  # type: ignore[import-untyped]
from scipy.sparse.csgraph import connected_components  # type: ignore[import-untyped]

# The cosines of one block of rows with another take 16 MB, whatever the number of images.
BLOCK_ROWS = 2048
# The closest pairs are kept: nobody reads more, and N images that are all alike have N * N / 2 pairs.
MOST_PAIRS = 10_000
# Images of different classes are seldom mutual nearest neighbours, so a lower cosine is enough evidence. Measured on
# Caltech-101: of 99 such pairs from 0.80 on, 97 show one photo, or one person in a series of shots.
MUTUAL_MARGIN = 0.12


class NearestOther(NamedTuple):
    """For each row the nearest row of another label int64[N], -1 without one, and its cosine float32[N]."""

    rows: np.ndarray
    cosines: np.ndarray


class NearDuplicates(NamedTuple):
    """Near-duplicates among N rows: the closest pairs, the number of all pairs and of pairs across two splits.

    splits bool[N, S] marks the splits in which a row has a near-duplicate. Rows linked by any chain of pairs have the
    same number in groups int64[N].
    """

    pairs: list[tuple[int, int, float]]  # the lower row, the higher row and their cosine
    total: int
    leaks: int
    splits: np.ndarray
    groups: np.ndarray
    nearest: NearestOther


class _Pairs(NamedTuple):
    rows_a: np.ndarray
    rows_b: np.ndarray
    cosines: np.ndarray


def find_near_duplicates(
    embeddings: np.ndarray,
    labels: np.ndarray,
    splits: np.ndarray,
    groups: np.ndarray,
    threshold: float,
    most: int = MOST_PAIRS,
) -> NearDuplicates:
    """Find the near-duplicate pairs among unit rows float32[N, D], and keep at most `most` of them, the closest first.

    A pair is one whose cosine reaches the threshold in (0, 1], or one of different labels that are mutual nearest
    neighbours among all rows of other labels, where its cosine reaches the threshold less MUTUAL_MARGIN. labels and
    splits are int64[N]. Rows of the same group of int64[N] are linked from the start.
    """
    kept = _Pairs(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))
    nearest = NearestOther(np.full(len(labels), -1), np.full(len(labels), -2, np.float32))
    near_splits = np.zeros((len(labels), splits.max(initial=-1) + 1), bool)
    count, leaks, floor = 0, 0, -1.0
    for rows_a, rows_b, cosines in _search(embeddings, labels, threshold, nearest):
        count += len(cosines)
        leaks += np.count_nonzero(splits[rows_a] != splits[rows_b])
        near_splits[rows_a, splits[rows_b]] = True
        near_splits[rows_b, splits[rows_a]] = True
        groups = join_groups(groups, rows_a, rows_b)
        close = cosines >= floor
        kept = _Pairs(*map(np.concatenate, zip(kept, (rows_a[close], rows_b[close], cosines[close]), strict=True)))
        if len(kept.cosines) > 2 * most:
            kept = _keep_closest(kept, most)
            floor = float(np.nextafter(kept.cosines[-1], np.float32(2)))
    rows_a, rows_b, cosines = _keep_closest(kept, most)
    cosines = np.minimum(cosines, 1)  # rounding carries the product of equal rows past 1
    pairs = list(zip(rows_a.tolist(), rows_b.tolist(), cosines.tolist(), strict=True))
    return NearDuplicates(pairs, count, int(leaks), near_splits, groups, nearest)


def _search(embeddings: np.ndarray, labels: np.ndarray, threshold: float, nearest: NearestOther) -> Iterator[_Pairs]:
    """Yield all pairs in parts, and update the nearest row of each row."""
    for start_a in range(0, len(embeddings), BLOCK_ROWS):
        for start_b in range(start_a, len(embeddings), BLOCK_ROWS):
            block_a, block_b = slice(start_a, start_a + BLOCK_ROWS), slice(start_b, start_b + BLOCK_ROWS)
            cosines = embeddings[block_a] @ embeddings[block_b].T
            if start_a == start_b:  # each pair once
                cosines[np.tril_indices(len(cosines))] = -2
            at_a, at_b = np.nonzero(cosines >= threshold)
            if at_a.size:
                yield _Pairs(at_a + start_a, at_b + start_b, cosines[at_a, at_b])
            cosines[labels[block_a, None] == labels[block_b]] = -2
            _keep_nearest(nearest, start_a, start_b, cosines)
            _keep_nearest(nearest, start_b, start_a, cosines.T)
    rows = np.flatnonzero((nearest.cosines >= threshold - MUTUAL_MARGIN) & (nearest.cosines < threshold))
    others = nearest.rows[rows]
    mutual = (nearest.rows[others] == rows) & (rows < others)
    yield _Pairs(rows[mutual], others[mutual], nearest.cosines[rows[mutual]])


def _keep_closest(pairs: _Pairs, most: int) -> _Pairs:
    order = np.lexsort((pairs.rows_b, pairs.rows_a, -pairs.cosines))[:most]
    return _Pairs(*(column[order] for column in pairs))


def _keep_nearest(nearest: NearestOther, start: int, other_start: int, cosines: np.ndarray) -> None:
    """Update the nearest row of the rows from `start` on, by their cosines with the rows from `other_start` on."""
    columns = cosines.argmax(1)
    found = cosines[np.arange(len(cosines)), columns]
    closer = np.flatnonzero(found > nearest.cosines[start : start + len(cosines)])
    nearest.rows[start + closer] = other_start + columns[closer]
    nearest.cosines[start + closer] = found[closer]


def join_groups(groups: np.ndarray, rows_a: np.ndarray, rows_b: np.ndarray) -> np.ndarray:
    """Return the group int64[N] of each row after joining the groups int64[N] of the two rows of each pair."""
    apart = groups[rows_a] != groups[rows_b]
    if not apart.any():
        return groups
    ends = groups[rows_a[apart]], groups[rows_b[apart]]
    links = coo_matrix((np.ones(len(ends[0]), bool), ends), [groups.max() + 1] * 2)
    _, joined = connected_components(links, directed=False)
    return joined.astype(np.int64)[groups]
