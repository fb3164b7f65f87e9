"""Linked images: exact copies, which are reported or dropped, and connected components, which share a split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_matrix  # type: ignore[import-untyped]
from scipy.sparse.csgraph import connected_components  # type: ignore[import-untyped]

from components.data.columns import Words, compact, take_rows
from components.data.image_list import ImageList
from components.features import COPY, LABEL_CONFLICT, LEAK, SPLIT_CODES

KEPT, DROPPED = "kept", "dropped"


@dataclass(frozen=True, eq=False)
class Members:
    """N images in columns, sorted by key: the facts that decide whether they are copies, and their splits."""

    files: ImageList
    digests: np.ndarray  # S32[N], SHA-256
    contents: np.ndarray  # int64[N], the same number for the same bytes, less than N
    fixed: np.ndarray  # int32[N], the codes of the splits that the user's layout fixes
    formers: np.ndarray  # int32[N], those of an earlier run with the same settings


class Copy(NamedTuple):
    """One row of duplicates.csv: an image, and the image that has the same bytes."""

    kind: str  # copy (inside a class), label_conflict (two classes), leak (two fixed splits)
    key: str
    label: str
    copy_of: str
    copy_of_label: str
    action: str  # kept or dropped
    sha256: str


@dataclass(frozen=True, eq=False)
class Components:
    """M sets of images that share a split because a group or equal bytes link them; those of one image come first."""

    ids: np.ndarray  # int64[M], the row of the smallest key
    linked: list[np.ndarray]  # rows of each set of several images
    sizes: list[Mapping[int, int]]  # number of images per code of a class
    counts: np.ndarray  # int32[M], images
    splits: np.ndarray  # int32[M], codes of the fixed splits
    formers: np.ndarray  # int32[M], codes of the splits of most of the images


def number_contents(digests: np.ndarray, is_read: np.ndarray) -> np.ndarray:
    """Return for each SHA-256, S32[N], the row of its first image as int64[N]; an unread image is unlike any other."""
    numbers = np.arange(len(digests))
    rows = np.flatnonzero(is_read)
    starts = digests.view(np.uint64)[::4][rows]
    order = np.argsort(starts, kind="stable")
    same = starts[order][1:] == starts[order][:-1]
    # Eight bytes are compared in columns, and all of them for the few images with equal ones.
    alike = np.unique(np.append(order[1:][same], order[:-1][same]))
    firsts: dict[bytes, int] = {}
    for row in rows[alike].tolist():
        numbers[row] = firsts.setdefault(digests[row], row)
    return numbers


def find_copies(members: Members, rows: np.ndarray, policy: str) -> dict[int, Copy]:
    """Return for each row that has a copy, except the originals, its row of the table; policy drop drops some of them.

    A label conflict is always kept, as only the user knows the right label. Of a leak, test wins over val, and val over
    train: the other image is always dropped, so that no copies remain in different fixed splits.
    """
    copied = _find_shared(members.contents, rows)
    same: dict[int, list[int]] = {}
    for row, content in zip(copied.tolist(), members.contents[copied].tolist(), strict=True):
        same.setdefault(content, []).append(row)
    action = DROPPED if policy == "drop" else KEPT
    return dict(pair for copies in same.values() for pair in _compare(members, copies, action))


def _compare(members: Members, copies: list[int], action: str) -> Iterator[tuple[int, Copy]]:
    """Yield the rows of images with the same bytes; action is that of a copy within a class."""
    files = {row: members.files[row] for row in copies}
    # First test, val, train and no fixed split; then the images of an earlier run; then the smallest key.
    original, *others = sorted(copies, key=lambda row: (-members.fixed[row], members.formers[row] == 0, row))
    first_of_class = {files[original].text: original}

    def describe(kind: str, row: int, copy_of: int, what: str) -> tuple[int, Copy]:
        (key, _, text, *_), (of_key, _, of_text, *_) = files[row], files[copy_of]
        sha256 = members.digests[row].ljust(32, b"\0").hex()
        return row, Copy(kind, key, text, of_key, of_text, what, sha256)

    for row in others:
        if members.fixed[row] not in (0, members.fixed[original]):
            yield describe(LEAK, row, original, DROPPED)
        elif files[row].text in first_of_class:
            yield describe(COPY, row, first_of_class[files[row].text], action)
        else:
            first_of_class[files[row].text] = row
            yield describe(LABEL_CONFLICT, row, original, KEPT)


def link_members(members: Members, rows: np.ndarray) -> Components:
    """Return the connected components of images, int64[M] ascending, with the same group or bytes.

    A fixed image is linked to no other, but its copies share its split.
    """
    fixed, contents, groups = members.fixed, members.contents, members.files.groups
    own = rows[take_rows(fixed, rows) > 0]
    pins, free = fixed, rows
    if len(own):
        by_content = np.zeros(len(fixed), np.int32)
        by_content[contents[own]] = fixed[own]
        pins, free = np.where(fixed > 0, fixed, by_content[contents]), rows[fixed[rows] == 0]
    alone = np.ones(len(fixed), bool)
    alone[_find_shared(contents, free)] = False
    if groups.find("") < 0 or len(groups.words) > 1:
        alone[free[groups.codes[free] != groups.find("")]] = False
    linked, single = (rows[alone[rows] == wanted] for wanted in (False, True))
    texts = members.files.texts
    one_of = [{code: 1} for code in range(len(texts.words))]
    parts = [part for whole in _connect(members, linked) for part in _part_by_split(whole, pins)]
    return Components(
        ids=_append(single, [part[0] for part in parts]),
        linked=parts,
        sizes=[
            *(one_of[code] for code in texts.codes[single].tolist()),
            *(Counter(texts.codes[part].tolist()) for part in parts),
        ],
        counts=_append(np.broadcast_to(np.int32(1), single.shape), [len(part) for part in parts]),
        splits=_append(take_rows(pins, single), [pins[part].max() for part in parts]),
        formers=_append(
            take_rows(members.formers, single), [_find_most_frequent(members.formers[part]) for part in parts]
        ),
    )


def _find_shared(contents: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return those of some rows whose content another one of them has too, int64[M]."""
    numbers = contents[rows]
    # Nearly all images are the first with their content, and the only one.
    is_shared = np.zeros(len(contents), bool)
    is_shared[numbers[numbers != rows]] = True
    candidates = rows[is_shared[numbers]]
    _, places, counts = np.unique(contents[candidates], return_inverse=True, return_counts=True)
    return candidates[counts[places] > 1]


def _append(column: np.ndarray, values: Sequence[int]) -> np.ndarray:
    return compact(np.append(column, values).astype(column.dtype) if values else column)


def _connect(members: Members, rows: np.ndarray) -> list[np.ndarray]:
    """Return the rows of each connected component of images with the same group or bytes."""
    groups: Words = members.files.groups.take(rows)
    grouped = np.flatnonzero(groups.codes != groups.find(""))
    count, contents = len(rows), np.unique(members.contents[rows], return_inverse=True)[1]
    # A graph of images, contents and groups.
    ends = np.append(contents, len(rows) + groups.codes[grouped]) + count
    starts = np.append(np.arange(count), grouped)
    size = 2 * count + len(groups.words)
    graph = coo_matrix((np.ones(len(starts), bool), (starts, ends)), [size, size])
    numbers = connected_components(graph, directed=False)[1][:count]
    order = np.argsort(numbers, kind="stable")
    borders = np.flatnonzero(np.diff(numbers[order])) + 1
    return np.split(rows[order], borders) if count else []


def _part_by_split(rows: np.ndarray, pins: np.ndarray) -> Iterator[np.ndarray]:
    """Yield linked images as one component, or as one per split if they are copies of images fixed in several."""
    found = np.where(pins[rows] > 0, pins[rows], pins[rows].max())
    for split in np.unique(found):
        yield rows[found == split]


def _find_most_frequent(codes: np.ndarray) -> int:
    """Return the split of most images, 0 if none has one; of equally frequent ones the first."""
    counts = np.bincount(codes, minlength=len(SPLIT_CODES))[1:]
    return int(counts.argmax()) + 1 if counts.any() else 0
