"""Settings of ingest: the splits of the images, and the images that it rejects."""

from __future__ import annotations

import math
from typing import Literal

from components.features import SPLITS
from components.images.formats import Limits
from components.settings import Count, Fraction, FractionBetween, settings


@settings
class Split:
    """Fractions of the images in each split, which sum to 1; train_per_class sets an exact number for train instead."""

    train: FractionBetween = 0.6
    val: FractionBetween = 0.2
    test: FractionBetween = 0.2
    train_per_class: Count | None = None

    def __post_init__(self) -> None:
        if not math.isclose(self.train + self.val + self.test, 1, abs_tol=1e-6):
            raise ValueError(f"the fractions sum to {self.train + self.val + self.test:g}, expected 1")

    @property
    def fractions(self) -> dict[str, float]:
        """The fraction of each split by its name."""
        return {split: getattr(self, split) for split in SPLITS}


@settings
class IngestRules:
    """Rules for the files of a data set: splits, treatment of copies, and limits."""

    split: Split = Split()
    duplicates: Literal["drop", "keep", "fail"] = "drop"
    label_conflicts: Literal["warn", "fail"] = "warn"
    max_reject_share: Fraction = 0.05
    max_bytes: Count = Limits().max_bytes
    max_pixels: Count = Limits().max_pixels

    @property
    def limits(self) -> Limits:
        """The limits on bytes and pixels of one image."""
        return Limits(self.max_bytes, self.max_pixels)
