"""Images that belong together: exact copies, to be reported or left out, and components, to be kept in one split."""

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
    """A usable image as splits and duplicates see it."""

    key: str
    text: str  # class
    group: str  # images of one group stay in one split; '' where it stands alone
    sha256: str
    split: str  # fixed by the user's layout, or ''
    former: str  # the split in which an earlier run of the same settings put it, or ''


class Copy(NamedTuple):
    """One row of duplicates.csv: an image and the one that it has its bytes from."""

    kind: str  # copy (inside a class), label_conflict (two classes), leak (two fixed splits)
    key: str
    label: str
    copy_of: str
    copy_of_label: str
    action: str  # kept or dropped
    sha256: str


class Component(NamedTuple):
    """Images that share a split because their group or equal bytes link them."""

    id: str  # the smallest key
    keys: list[str]
    sizes: Mapping[str, int]  # images of each class
    split: str  # fixed, or ''
    former: str  # that of most of the images, or ''


def find_copies(members: Sequence[Member], policy: str) -> list[Copy]:
    """Return the rows of all images that are copies, sorted by kind and key; policy drop or keep says what copies do.

    A label conflict is always kept, as only the user knows the right label, and the less held out side of a leak is
    always dropped, so that no copies are left in different fixed splits.
    """
    firsts: dict[str, Member] = {}
    same: defaultdict[str, list[Member]] = defaultdict(list)
    for member in members:
        first = firsts.setdefault(member.sha256, member)
        if first is not member:
            same[member.sha256].append(member)
    action = DROPPED if policy == "drop" else KEPT
    return sorted(row for sha256, others in same.items() for row in _compare([firsts[sha256], *others], action))


def _compare(copies: list[Member], action: str) -> Iterator[Copy]:
    """Yield the rows of images with the same bytes; action is what becomes of a copy inside a class."""
    original, *others = sorted(copies, key=_rank)
    first_of_class = {original.text: original}
    for member in others:
        if member.split not in ("", original.split):
            yield _make_row(LEAK, member, original, DROPPED)
        elif member.text in first_of_class:
            yield _make_row(COPY, member, first_of_class[member.text], action)
        else:
            first_of_class[member.text] = member
            yield _make_row(LABEL_CONFLICT, member, original, KEPT)


def _rank(member: Member) -> tuple[int, bool, str]:
    """Sort key: the most held out of fixed splits, then what an earlier run used, then the smallest key."""
    held_out = ("", *SPLITS).index(member.split)
    return -held_out, not member.former, member.key


def _make_row(kind: str, member: Member, original: Member, action: str) -> Copy:
    return Copy(kind, member.key, member.text, original.key, original.text, action, member.sha256)


def link_members(members: Sequence[Member]) -> list[Component]:
    """Return the components: a fixed image stands alone, any other is linked by its group and its SHA-256."""
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
        if len(part) == 1:  # nearly all are
            (member,) = part
            split = member.split or fixed.get(member.sha256, "")
            components.append(Component(member.key, [member.key], single[member.text], split, member.former))
        else:
            components.extend(_make_components(part, fixed))
    return components


def _make_components(linked: list[Member], fixed: Mapping[str, str]) -> Iterator[Component]:
    """Yield linked images as one component, or one a split where they are copies of images fixed in several."""
    pins = [member.split or fixed.get(member.sha256, "") for member in linked]
    most_held_out = max(pins, key=("", *SPLITS).index)
    for split in {pin or most_held_out for pin in pins}:
        part = [member for member, pin in zip(linked, pins, strict=True) if (pin or most_held_out) == split]
        keys = sorted(member.key for member in part)
        formers = Counter(member.former for member in part if member.former)
        former = max(SPLITS, key=formers.__getitem__) if formers else ""
        yield Component(keys[0], keys, Counter(member.text for member in part), split, former)
