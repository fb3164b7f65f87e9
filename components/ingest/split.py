"""Splits: stratified by class, with linked images in one split, and stable as data grows."""

from __future__ import annotations

import bisect
import itertools
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from components.errors import UserError
from components.features import SPLITS
from components.ingest.duplicates import Component, Member, link_members
from components.shards.spans import hash_fraction

# A class with too few components for every split has one in each of the first of these.
PRIORITY = ("train", "test", "val")


@dataclass(frozen=True)
class SplitPlan:
    """The fractions of the splits, or a number of training images per class and the fractions of the rest."""

    fractions: Mapping[str, float]  # of train, val and test; sum to 1
    train_per_class: int | None  # exact number of training images per class
    seed: int


class SplitCounts(NamedTuple):
    """For each (class, split): the images that are missing from its quota, and the components that are in it."""

    missing: Counter[tuple[str, str]]
    components: Counter[tuple[str, str]]

    def add(self, component: Component, split: str, times: int = 1) -> None:
        """Add a component to a split, or remove it with times -1."""
        for text, size in component.sizes.items():
            self.missing[text, split] -= times * size
            self.components[text, split] += times


def assign_splits(members: Sequence[Member], plan: SplitPlan, open_splits: Sequence[str] = SPLITS) -> dict[str, str]:
    """Return the split of each key: the fixed one, else that of a fixed copy, else one of the open splits.

    Fixed copies must share a split (find_copies drops the others). An image leaves its former split only if its class
    would otherwise have an empty open split, despite enough components, or too few train_per_class images. Components
    are chosen for training in hash order if they fit, so a class with groups or fixed images may get fewer. Raises
    UserError for a class that has no more than train_per_class images.
    """
    components = link_members(members)
    splits = [split for split in PRIORITY if split in open_splits]
    if plan.train_per_class is not None:
        components = _choose_training(components, plan.train_per_class, plan.seed, splits)
        splits.remove("train")
    placed = _place_components(components, plan, splits)
    return {key: placed[component.id] for component in components for key in component.keys}


def _choose_training(components: list[Component], per_class: int, seed: int, splits: list[str]) -> list[Component]:
    """Return the components, those chosen for training fixed in train; raises UserError for a small class."""
    usable: Counter[str] = Counter()
    training: Counter[str] = Counter()
    for component in components:
        if component.split in ("", *splits):
            usable.update(component.sizes)
        if component.split == "train":
            training.update(component.sizes)
    short = [(count, text) for text, count in usable.items() if count <= per_class]
    if short:
        count, text = min(short)
        raise UserError(
            f"The smallest class, '{text}', has {count} of the {per_class + 1} images that every class needs for "
            f"train_per_class={per_class} and a test image: add images to it, remove it or lower train_per_class."
        )
    # Former training images stay. Former test images come last, as they evaluated earlier models.
    ranks = {former: rank for rank, former in enumerate(("train", "", "val", "test"))}
    chosen = []
    for component in sorted(components, key=lambda c: (ranks[c.former], _hash_id(c, seed))):
        fits = all(training[text] + size <= per_class for text, size in component.sizes.items())
        if not component.split and (fits or component.former == "train"):
            training.update(component.sizes)
            component = component._replace(split="train")
        chosen.append(component)
    return chosen


def _place_components(components: list[Component], plan: SplitPlan, splits: list[str]) -> dict[str, str]:
    """Return the split of each component by its id: the fixed, else the former, else the one that misses most."""
    placed: dict[str, str] = {}
    new: list[Component] = []
    totals: Counter[str] = Counter()
    for component in components:
        split = component.split or (component.former if component.former in splits else "")
        if split:
            placed[component.id] = split
        else:
            new.append(component)
        if split in ("", *splits):
            totals.update(component.sizes)
    fractions = {split: plan.fractions[split] for split in splits}
    counts = SplitCounts(Counter(), Counter())
    for text, total in totals.items():
        counts.missing.update({(text, split): quota for split, quota in apportion(total, fractions).items()})
    for component in components:
        if component.id in placed:
            counts.add(component, placed[component.id])

    # Large components are placed first, so that small ones fill the rest of each quota.
    new.sort(key=lambda c: (-len(c.keys), _hash_id(c, plan.seed)))
    waiting = Counter(text for component in new for text in component.sizes)
    for component in new:
        own = _choose_own_split(_hash_id(component, plan.seed), fractions)
        placed[component.id] = split = _choose_split(component, own, splits, counts, waiting)
        counts.add(component, split)
        waiting.subtract(component.sizes.keys())
    _fill_empty_splits(components, placed, splits, counts, plan.seed)
    return placed


def apportion(total: int, fractions: Mapping[str, float]) -> dict[str, int]:
    """Return whole numbers that sum to total in proportion to fractions, by largest remainder (Hamilton's method)."""
    exact = {split: total * fraction / sum(fractions.values()) for split, fraction in fractions.items()}
    numbers = {split: int(number) for split, number in exact.items()}
    # Rounding keeps equal remainders equal in floating point, so that the first of them wins.
    by_remainder = sorted(fractions, key=lambda split: round(numbers[split] - exact[split], 9))
    for split in by_remainder[: total - sum(numbers.values())]:
        numbers[split] += 1
    return numbers


def _choose_own_split(position: float, fractions: Mapping[str, float]) -> str:
    """Return the split whose part of [0, 1) contains a position."""
    *ends, total = itertools.accumulate(fractions.values())
    return list(fractions)[bisect.bisect(ends, position * total)]


def _choose_split(
    component: Component, own: str, splits: list[str], counts: SplitCounts, waiting: Mapping[str, int]
) -> str:
    """Return an empty split if its class has just enough components left, else the own split of the component if it
    misses that many images, else the split that misses most.

    The own split keeps grown data divided much as before, even without the splits of an earlier run.
    """
    forced: Counter[str] = Counter()
    for text in component.sizes:
        empty = [split for split in splits if not counts.components[text, split]]
        if waiting[text] <= len(empty):
            forced.update(empty[: waiting[text]])
    missing = {split: sum(counts.missing[text, split] for text in component.sizes) for split in splits}
    fits = missing[own] >= len(component.keys)
    return max(splits, key=lambda split: (forced[split], fits and split == own, missing[split]))


def _fill_empty_splits(
    components: list[Component], placed: dict[str, str], splits: list[str], counts: SplitCounts, seed: int
) -> None:
    """Move a component into each empty split of a class that has enough, unless another class loses its last one."""
    movable = defaultdict(list)
    for component in components:
        for text in () if component.split else component.sizes:
            movable[text].append(component)
    empty = [
        (text, split)
        for text in sorted(movable)
        for split in splits
        if not counts.components[text, split] and sum(counts.components[text, s] for s in splits) >= len(splits)
    ]
    moved = True
    while moved:  # a move for one class can free a component for another
        moved = False
        for text, split in empty:
            spare = [c for c in movable[text] if all(counts.components[t, placed[c.id]] > 1 for t in c.sizes)]
            if spare and not counts.components[text, split]:
                ranks = {c.id: (bool(c.former), counts.missing[text, placed[c.id]], len(c.keys)) for c in spare}
                chosen = min(spare, key=lambda c: (ranks[c.id], _hash_id(c, seed)))
                counts.add(chosen, placed[chosen.id], -1)
                counts.add(chosen, split)
                placed[chosen.id] = split
                moved = True


def _hash_id(component: Component, seed: int) -> float:
    return hash_fraction(component.id, f"split-{seed}")
