"""The checks of ingest: each ends the run with one sentence."""

from __future__ import annotations

import collections

from components.data.image_list import Listing
from components.errors import UserError
from components.features import SPLITS
from components.ingest.placement import Planned, find_differences
from components.ingest.split import SplitPlan
from components.rejects import DUPLICATE, Reject
from components.run_dir import RunDir
from components.shards.names import shard_names
from components.shards.spans import list_shards
from components.storage.places import list_files


def check_plan(plan: SplitPlan, listing: Listing) -> None:
    """Raise UserError for a plan of splits that the layout of the data already fixes."""
    if plan.train_per_class and not ("train" in listing.open_splits and len(listing.open_splits) > 1):
        raise UserError(
            f"data.split.train_per_class is {plan.train_per_class}, but the layout of the data fixes its splits: "
            f"remove one of the two."
        )


def check_written(planned: Planned, written: Planned, run: RunDir) -> None:
    """Raise UserError for an image that changed while it was read, and for shards that are missing."""
    for row in find_differences(planned, written)[:1]:
        path = planned.files[int(row)].path
        raise UserError(f"'{path}' changed while it was being read: run again when nothing writes to it.")
    if (
        not {name for shard in list_shards(planned.spans) for name in shard_names(shard)}
        <= list_files(run.examples).keys()
    ):
        raise UserError(f"Shards vanished from '{run.examples}' while they were written: run again to write them.")


def check_rejects(rejects: list[Reject], found: int, max_reject_share: float, run: RunDir) -> None:
    """Raise UserError for more unusable files than the limit allows."""
    unusable = [reject for reject in rejects if reject.reason != DUPLICATE]
    if len(unusable) > max_reject_share * found:
        first = unusable[0]
        raise UserError(
            f"{len(unusable)} of {found} files are not usable images (the first: '{first.key}', {first.reason}, "
            f"{first.detail}), "
            f"more than data.max_reject_share={max_reject_share} allows: read '{run.rejects}', then repair the files."
        )


def check_classes(planned: Planned, listing: Listing, plan: SplitPlan) -> None:
    """Raise UserError for a split without an image, and for a class without one to train on."""
    splits = planned.splits.count()
    for split in SPLITS:
        if split not in splits:
            raise UserError(f"The {split} split has no image at all{_explain_empty_split(planned, listing, plan)}.")
    trained = planned.count_classes("train")
    for text in listing.labels:
        if text not in trained:
            raise UserError(
                f"Class '{text}' has no readable image in the train split: add images to it or remove its folder."
            )


def _explain_empty_split(planned: Planned, listing: Listing, plan: SplitPlan) -> str:
    """Return the reason of an empty split: assign_splits fills it from any class with enough images."""
    units: dict[str, set[str]] = collections.defaultdict(set)
    kept = planned.find_kept()
    for row in planned.read(kept):
        if row.facts and not row.file.split:
            units[row.file.text].add(row.file.group or row.facts.sha256)
    if not len(kept):
        return ": no file is a usable image"
    if not units:
        return ", and the data fixes the splits of all others: add images to it, or leave some without a split"
    largest = max(units, key=lambda text: len(units[text]))
    needed = len(listing.open_splits) - 1 + (plan.train_per_class or 1)
    return (
        f": a class of {needed} images can have one in each of {', '.join(listing.open_splits)} (copies and images of "
        f"one group count as one), but the largest, '{largest}', has {len(units[largest])}: add images to it"
    )
