"""Splits: every class in train, val and test by their shares, linked images together, none moved as data grows."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from components.errors import UserError
from components.features import SPLITS
from components.ingest.duplicates import Component, Member, link_members
from components.shards.spans import hash_fraction

# A class with too few components for every split has one in the first of these.
PRIORITY = ("train", "test", "val")


@dataclass(frozen=True)
class SplitPlan:
    """How images are divided: by shares, or into a number of training images and the rest by shares."""

    shares: Mapping[str, float]  # of train, val and test; sum to 1
    train_per_class: int | None  # exact number of training images in each class
    seed: int


class Tally(NamedTuple):
    """For each (class, split): images that it lacks of its quota, and components that it has."""

    lacking: Counter[tuple[str, str]]
    components: Counter[tuple[str, str]]

    def add(self, component: Component, split: str, times: int = 1) -> None:
        """Count a component into a split; times -1 takes it out."""
        for text, size in component.sizes.items():
            self.lacking[text, split] -= times * size
            self.components[text, split] += times


def assign_splits(members: Sequence[Member], plan: SplitPlan, open_splits: Sequence[str] = SPLITS) -> dict[str, str]:
    """Return the split of each key: the fixed one, else that of a fixed copy, else one of the open splits.

    Fixed copies must share a split (find_copies drops those that do not). A former split is left only where the class
    would lack an open split though it has as many components as there are open splits, or where it would lack some of
    its train_per_class images. Components are chosen for training in hash order where they fit, so a class with groups
    or fixed images may get fewer. Raises UserError where a class has train_per_class images or fewer.
    """
    components = link_members(members)
    splits = [split for split in PRIORITY if split in open_splits]
    if plan.train_per_class is not None:
        components = _choose_training(components, plan.train_per_class, plan.seed, splits)
        splits.remove("train")
    placed = _place_components(components, plan, splits)
    return {key: placed[component.id] for component in components for key in component.keys}


def _choose_training(components: list[Component], per_class: int, seed: int, splits: list[str]) -> list[Component]:
    """Return the components with those chosen for training fixed there; raises UserError for too small a class."""
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
            f"The smallest class, '{text}', has {count} of the {per_class + 1} usable images that every class needs, "
            f"train_per_class={per_class} and one to test with: add images to it, remove it or lower train_per_class."
        )
    # What was in train stays; a former test image comes last, as it is what earlier runs were measured on.
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
    """Return the split of each component's id: the fixed, else the former, else the one that lacks most."""
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
    shares = {split: plan.shares[split] for split in splits}
    tally = Tally(Counter(), Counter())
    for text, total in totals.items():
        tally.lacking.update({(text, split): quota for split, quota in apportion(total, shares).items()})
    for component in components:
        if component.id in placed:
            tally.add(component, placed[component.id])

    # Large components go first, as small ones then even out what they leave.
    new.sort(key=lambda c: (-len(c.keys), _hash_id(c, plan.seed)))
    waiting = Counter(text for component in new for text in component.sizes)
    for component in new:
        own = _choose_own_split(_hash_id(component, plan.seed), shares)
        placed[component.id] = split = _choose_split(component, own, splits, tally, waiting)
        tally.add(component, split)
        waiting.subtract(component.sizes.keys())
    _fill_empty_splits(components, placed, splits, tally, plan.seed)
    return placed


def apportion(total: int, shares: Mapping[str, float]) -> dict[str, int]:
    """Return whole numbers in proportion to shares that sum to total, by largest remainder (Hamilton's method)."""
    exact = {split: total * share / sum(shares.values()) for split, share in shares.items()}
    numbers = {split: int(number) for split, number in exact.items()}
    # Rounding keeps equal remainders equal in floating point, so that the first of them wins.
    by_remainder = sorted(shares, key=lambda split: round(numbers[split] - exact[split], 9))
    for split in by_remainder[: total - sum(numbers.values())]:
        numbers[split] += 1
    return numbers


def _choose_own_split(position: float, shares: Mapping[str, float]) -> str:
    """Return the split into whose share of [0, 1) a position falls."""
    position *= sum(shares.values())
    for split, share in shares.items():
        if position < share:
            return split
        position -= share
    return next(reversed(list(shares)))


def _choose_split(component: Component, own: str, splits: list[str], tally: Tally, waiting: Mapping[str, int]) -> str:
    """Return an empty split where just enough components wait, else the component's own while that lacks so many
    images (so that grown data is divided much as before, even by a run that knows of no former one), else the one that
    lacks most."""
    forced: Counter[str] = Counter()
    for text in component.sizes:
        empty = [split for split in splits if not tally.components[text, split]]
        if waiting[text] <= len(empty):
            forced.update(empty[: waiting[text]])
    lacking = {split: sum(tally.lacking[text, split] for text in component.sizes) for split in splits}
    fits = lacking[own] >= len(component.keys)
    return max(splits, key=lambda split: (forced[split], fits and split == own, lacking[split]))


def _fill_empty_splits(
    components: list[Component], placed: dict[str, str], splits: list[str], tally: Tally, seed: int
) -> None:
    """Move a component into each split that a class lacks, where the class has enough and no class loses its last."""
    movable = defaultdict(list)
    for component in components:
        for text in () if component.split else component.sizes:
            movable[text].append(component)
    empty = [
        (text, split)
        for text in sorted(movable)
        for split in splits
        if not tally.components[text, split] and sum(tally.components[text, s] for s in splits) >= len(splits)
    ]
    moved = True
    while moved:  # as one class's move can free a component for another
        moved = False
        for text, split in empty:
            spare = [c for c in movable[text] if all(tally.components[t, placed[c.id]] > 1 for t in c.sizes)]
            if spare and not tally.components[text, split]:
                ranks = {c.id: (bool(c.former), tally.lacking[text, placed[c.id]], len(c.keys)) for c in spare}
                chosen = min(spare, key=lambda c: (ranks[c.id], _hash_id(c, seed)))
                tally.add(chosen, placed[chosen.id], -1)
                tally.add(chosen, split)
                placed[chosen.id] = split
                moved = True


def _hash_id(component: Component, seed: int) -> float:
    return hash_fraction(component.id, f"split-{seed}")
