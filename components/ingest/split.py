"""Splits: stratified by class, with linked images in one split, and stable as data grows."""

from __future__ import annotations

import bisect
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

import numpy as np

from components.data.columns import take_rows
from components.errors import UserError
from components.features import SPLIT_CODES, SPLITS
from components.ingest.duplicates import Components, Members, link_members
from components.shards.spans import hash_fraction

S = TypeVar("S")

# A class with too few components for every split has one in each of the first of these.
PRIORITY = ("train", "test", "val")
TRAIN = SPLIT_CODES.index("train")


@dataclass(frozen=True)
class SplitPlan:
    """The fractions of the splits, or a number of training images per class and the fractions of the rest."""

    fractions: Mapping[str, float]  # of train, val and test; sum to 1
    train_per_class: int | None  # exact number of training images per class
    seed: int


class SplitCounts(NamedTuple):
    """By code of a split, then of a class: images missing from the quota, and components that are in the split."""

    missing: list[list[int]]
    components: list[list[int]]

    def add(self, sizes: Mapping[int, int], split: int, times: int = 1) -> None:
        """Add a component to a split, or remove it with times -1."""
        for text, size in sizes.items():
            self.missing[split][text] -= times * size
            self.components[split][text] += times


def assign_splits(
    members: Members, rows: np.ndarray, plan: SplitPlan, open_splits: Sequence[str] = SPLITS
) -> np.ndarray:
    """Return int32[N], the codes of the splits of some rows, 0 for the other rows.

    The split is the fixed one, else that of a fixed copy, else one of the open splits. Fixed copies must share a split
    (find_copies drops the others). An image leaves its former split only if its class would otherwise have an empty
    open split, despite enough components, or too few train_per_class images. Components are chosen for training in hash
    order if they fit, so a class with groups or fixed images may get fewer. Raises UserError for a class that has no
    more than train_per_class images.
    """
    components, words = link_members(members, rows), members.files.texts.words
    keys = members.files.read_keys(components.ids)
    hashes = np.fromiter((hash_fraction(key, f"split-{plan.seed}") for key in keys), float, len(components.ids))
    splits = [SPLIT_CODES.index(split) for split in PRIORITY if split in open_splits]
    if plan.train_per_class is not None:
        components = _choose_training(components, words, hashes, plan.train_per_class, splits)
        splits.remove(TRAIN)
    placed = _place_components(components, words, hashes, plan, splits)
    codes, single = np.zeros(len(members.files), np.int32), len(placed) - len(components.linked)
    codes[components.ids[:single]] = placed[:single]
    for part, split in zip(components.linked, placed[single:].tolist(), strict=True):
        codes[part] = split
    return codes


def _choose_training(
    components: Components, words: Sequence[str], hashes: np.ndarray, per_class: int, splits: list[int]
) -> Components:
    """Return the components, those chosen for training fixed in train; raises UserError for a small class."""
    usable = _count_images(components, np.isin(components.splits, [0, *splits]), len(words))
    training = _count_images(components, components.splits == TRAIN, len(words))
    short = [(count, words[text]) for text, count in enumerate(usable) if 0 < count <= per_class]
    if short:
        count, text = min(short)
        raise UserError(
            f"The smallest class, '{text}', has {count} of the {per_class + 1} images that every class needs for "
            f"train_per_class={per_class} and a test image: add images to it, remove it or lower train_per_class."
        )
    # Former training images stay. Former test images come last, as they evaluated earlier models.
    ranks = np.array([("train", "", "val", "test").index(split) for split in SPLIT_CODES])
    chosen = components.splits.copy()
    for number in np.lexsort((hashes, ranks[components.formers])):
        sizes = components.sizes[number]
        fits = all(training[text] + size <= per_class for text, size in sizes.items())
        if not chosen[number] and (fits or components.formers[number] == TRAIN):
            chosen[number] = TRAIN
            for text, size in sizes.items():
                training[text] += size
    return replace(components, splits=chosen)


def _count_images(components: Components, mask: np.ndarray, classes: int) -> list[int]:
    """Return the images of each class in the components where a mask, bool[M], is true."""
    counts = [0] * classes
    for number in np.flatnonzero(mask):
        for text, size in components.sizes[number].items():
            counts[text] += size
    return counts


def _place_components(
    components: Components, words: Sequence[str], hashes: np.ndarray, plan: SplitPlan, splits: list[int]
) -> np.ndarray:
    """Return the split of each component, int32[M]: the fixed, else the former, else the one that misses most."""
    formers = np.where(np.isin(components.formers, splits), components.formers, 0)
    placed = np.where(components.splits > 0, components.splits, formers).astype(np.int32)
    fractions = {split: plan.fractions[SPLIT_CODES[split]] for split in splits}
    empty = [[0] * len(words) for _ in SPLIT_CODES]
    counts = SplitCounts(empty, [[*column] for column in empty])
    for text, total in enumerate(_count_images(components, np.isin(placed, [0, *splits]), len(words))):
        for split, quota in apportion(total, fractions).items() if total else ():
            counts.missing[split][text] = quota
    for number in np.flatnonzero(placed):
        counts.add(components.sizes[number], int(placed[number]))

    # Large components are placed first, so that small ones fill the rest of each quota.
    new = np.flatnonzero(placed == 0)
    new = new[np.argsort(hashes[new])]
    new = new[np.argsort(-take_rows(components.counts, new), kind="stable")]
    waiting = [0] * len(words)
    for number in new:
        for text in components.sizes[number]:
            waiting[text] += 1
    for number in new:
        sizes = components.sizes[number]
        split = _choose_split(sizes, _choose_own_split(hashes[number], fractions), splits, counts, waiting)
        placed[number] = split
        counts.add(sizes, split)
        for text in sizes:
            waiting[text] -= 1
    _fill_empty_splits(components, words, hashes, placed, splits, counts)
    return placed


def apportion(total: int, fractions: Mapping[S, float]) -> dict[S, int]:
    """Return whole numbers that sum to total in proportion to fractions, by largest remainder (Hamilton's method)."""
    exact = {split: total * fraction / sum(fractions.values()) for split, fraction in fractions.items()}
    numbers = {split: int(number) for split, number in exact.items()}
    # Rounding keeps equal remainders equal in floating point, so that the first of them wins.
    by_remainder = sorted(fractions, key=lambda split: round(numbers[split] - exact[split], 9))
    for split in by_remainder[: total - sum(numbers.values())]:
        numbers[split] += 1
    return numbers


def _choose_own_split(position: float, fractions: Mapping[int, float]) -> int:
    """Return the split whose part of [0, 1) contains a position."""
    *ends, total = itertools.accumulate(fractions.values())
    return list(fractions)[bisect.bisect(ends, position * total)]


def _choose_split(
    sizes: Mapping[int, int], own: int, splits: list[int], counts: SplitCounts, waiting: Sequence[int]
) -> int:
    """Return an empty split if its class has just enough components left, else the own split of the component if it
    misses that many images, else the split that misses most.

    The own split keeps grown data divided much as before, even without the splits of an earlier run.
    """
    forced: Counter[int] = Counter()
    for text in sizes:
        if waiting[text] <= len(splits):
            empty = [split for split in splits if not counts.components[split][text]]
            if waiting[text] <= len(empty):
                forced.update(empty[: waiting[text]])
    missing = {split: sum(counts.missing[split][text] for text in sizes) for split in splits}
    fits = missing[own] >= sum(sizes.values())
    return max(splits, key=lambda split: (forced[split], fits and split == own, missing[split]))


def _fill_empty_splits(
    components: Components,
    words: Sequence[str],
    hashes: np.ndarray,
    placed: np.ndarray,
    splits: list[int],
    counts: SplitCounts,
) -> None:
    """Move a component into each empty split of a class that has enough, unless another class loses its last one."""
    empty = [
        (text, split)
        for text in sorted(range(len(words)), key=words.__getitem__)
        for split in splits
        if not counts.components[split][text] and sum(counts.components[s][text] for s in splits) >= len(splits)
    ]
    movable: dict[int, list[int]] = {text: [] for text, _ in empty}
    for number in np.flatnonzero(components.splits == 0) if empty else ():
        for text in components.sizes[number].keys() & movable.keys():
            movable[text].append(number)
    moved = True
    while moved:  # a move for one class can free a component for another
        moved = False
        for text, split in empty:
            spare = [c for c in movable[text] if all(counts.components[placed[c]][t] > 1 for t in components.sizes[c])]
            if spare and not counts.components[split][text]:
                chosen = min(
                    spare,
                    key=lambda c: (
                        components.formers[c] > 0,
                        counts.missing[placed[c]][text],
                        components.counts[c],
                        hashes[c],
                    ),
                )
                counts.add(components.sizes[chosen], placed[chosen], -1)
                counts.add(components.sizes[chosen], split)
                placed[chosen] = split
                moved = True
