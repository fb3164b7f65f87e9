"""Compare two models on the same images: gained are those that only the second answers right, lost only the first."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.stats import binomtest, norm  # type: ignore[import-untyped]

from components.metrics.calibration import INTERVAL


def mcnemar_test(gained: int, lost: int) -> float:
    """Return the two-sided p value of McNemar's exact test (Psychometrika 12, 1947): 1 if no image changed."""
    return float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def difference_interval(gained: int, lost: int, images: int) -> tuple[float, float]:
    """Return the 95 % interval of the difference of two accuracies on the same images, within [-1, 1].

    It is that of Bonett and Price (J. Educ. Behav. Stat. 37, 2012), which has a width also where no image changed.
    """
    up, down = (gained + 1) / (images + 2), (lost + 1) / (images + 2)
    margin = norm.ppf((1 + INTERVAL) / 2) * math.sqrt((up + down - (up - down) ** 2) / (images + 2))
    return max(-1.0, float(up - down - margin)), min(1.0, float(up - down + margin))


def correct_holm(p_values: Sequence[float]) -> list[float]:
    """Return the p values corrected for their number as Holm does (Scand. J. Stat. 6, 1979)."""
    order = np.argsort(p_values, kind="stable")
    corrected = np.empty(len(order))
    corrected[order] = np.maximum.accumulate(np.array(p_values)[order] * np.arange(len(order), 0, -1))
    limited: list[float] = np.minimum(corrected, 1).tolist()
    return limited
