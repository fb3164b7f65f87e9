"""Linked images: exact copies, which are reported or dropped, and connected components, which share a split."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_matrix  # type: ignore[import-untyped]
from scipy.sparse.csgraph import connected_components  # type: ignore[import-untyped]

from components.features import COPY, LABEL_CONFLICT, LEAK, SPLITS

KEPT, DROPPED = "kept", "dropped"


class Member(NamedTuple):
    """The facts about a usable image that decide its split and whether it is a copy."""

    key: str
    text: str  # class
    group: str  # images of one group stay in one split; '' without one
    sha256: str
    split: str  # fixed by the user's layout, or ''
    former: str  # the split from an earlier run with the same settings, or ''


class Copy(NamedTuple):
    """One row of duplicates.csv: an image, and the image that has the same bytes."""

    kind: str  # copy (inside a class), label_conflict (two classes), leak (two fixed splits)
    key: str
    label: str
    copy_of: str
    copy_of_label: str
    action: str  # kept or dropped
    sha256: str


class Component(NamedTuple):
    """Images that share a split because a group or equal bytes link them."""

    id: str  # the smallest key
    keys: list[str]
    sizes: Mapping[str, int]  # number of images per class
    split: str  # fixed, or ''
    former: str  # the one of most of the images, or ''


def find_copies(members: Sequence[Member], policy: str) -> list[Copy]:
    """Return the rows of all copies, sorted by kind and key; the policy drop drops copies within a class.

    A label conflict is always kept, as only the user knows the right label. Of a leak, test wins over val, and val over
    train: the other image is always dropped, so that no copies remain in different fixed splits.
    """
    counts = Counter(member.sha256 for member in members)
    same: defaultdict[str, list[Member]] = defaultdict(list)
    for member in members:
        if counts[member.sha256] > 1:  # a list for each of them would take much memory
            same[member.sha256].append(member)
    action = DROPPED if policy == "drop" else KEPT
    return sorted(row for copies in same.values() for row in _compare(copies, action))


def _compare(copies: list[Member], action: str) -> Iterator[Copy]:
    """Yield the rows of images with the same bytes; action is that of a copy within a class."""
    # First test, val, train and no fixed split; then the images of an earlier run; then the smallest key.
    held_out = ("", *SPLITS).index
    original, *others = sorted(copies, key=lambda copy: (-held_out(copy.split), not copy.former, copy.key))
    first_of_class = {original.text: original}
    for member in others:
        if member.split not in ("", original.split):
            yield _make_row(LEAK, member, original, DROPPED)
        elif member.text in first_of_class:
            yield _make_row(COPY, member, first_of_class[member.text], action)
        else:
            first_of_class[member.text] = member
            yield _make_row(LABEL_CONFLICT, member, original, KEPT)


def _make_row(kind: str, member: Member, original: Member, action: str) -> Copy:
    return Copy(kind, member.key, member.text, original.key, original.text, action, member.sha256)


def link_members(members: Sequence[Member]) -> list[Component]:
    """Return the connected components of images with the same group or SHA-256; a fixed image is linked to no other."""
    firsts: dict[tuple[int, str], int] = {}
    links = [
        (row, firsts.setdefault(link, row))
        for row, member in enumerate(members)
        if not member.split
        for link in enumerate((member.sha256, member.group))
        if link[1]
    ]
    ends = np.array(links, np.int64).reshape(-1, 2).T
    graph = coo_matrix((np.ones(len(links), bool), ends), [len(members)] * 2)
    _, numbers = connected_components(graph, directed=False)
    linked = defaultdict(list)
    for number, member in zip(numbers.tolist(), members, strict=True):
        linked[number].append(member)
    fixed = {member.sha256: member.split for member in members if member.split}
    single = {text: {text: 1} for text in {member.text for member in members}}
    components = []
    for part in linked.values():
        if len(part) == 1:  # nearly all parts: this is faster, and takes less memory
            (member,) = part
            split = member.split or fixed.get(member.sha256, "")
            components.append(Component(member.key, [member.key], single[member.text], split, member.former))
        else:
            components.extend(_make_components(part, fixed))
    return components


def _make_components(linked: list[Member], fixed: Mapping[str, str]) -> Iterator[Component]:
    """Yield linked images as one component, or as one per split if they are copies of images fixed in several."""
    pins = [member.split or fixed.get(member.sha256, "") for member in linked]
    most_held_out = max(pins, key=("", *SPLITS).index)
    for split in {pin or most_held_out for pin in pins}:
        part = [member for member, pin in zip(linked, pins, strict=True) if (pin or most_held_out) == split]
        keys = sorted(member.key for member in part)
        formers = Counter(member.former for member in part if member.former)
        former = max(SPLITS, key=formers.__getitem__) if formers else ""
        yield Component(keys[0], keys, Counter(member.text for member in part), split, former)
