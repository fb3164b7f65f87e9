"""How far a model's probabilities can be relied on: when to abstain, coverage against accuracy, calibration.

Everywhere confidences float[N] in [0, 1] are the probabilities of the predicted classes, correct bool[N] says which
predictions are right, and an image is answered where its confidence is at least the threshold.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import betaincinv  # type: ignore[import-untyped]

NEVER_ANSWERS = 2.0  # a threshold that no probability reaches
INTERVAL = 0.95
CURVE_POINTS = 200
BINS = 15  # as in Guo et al. 2017, whose tables others compare with


@dataclass(frozen=True)
class Abstention:
    """A threshold in [0, 1] or NEVER_ANSWERS, and what it does on some images.

    wanted is the precision that it was chosen for; precision is the share of right answers there, None without
    answers, and low and high bound it in the long run with 95 % confidence.
    """

    threshold: float
    wanted: float
    images: int
    answered: int
    precision: float | None
    low: float
    high: float

    @property
    def coverage(self) -> float:
        """The share of images that are answered."""
        return self.answered / self.images if self.images else 0.0


class Bins(NamedTuple):
    """The K bins that hold images, lowest first: images int[K], mean confidence and accuracy float[K]."""

    images: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray


def choose_abstention(confidences: np.ndarray, correct: np.ndarray, precision: float) -> Abstention:
    """Return the lowest threshold that reaches the precision in (0, 1), counting one more answer and a wrong one.

    Images of equal confidence are answered together. Where no threshold reaches it, nothing is answered.
    """
    # The lowest threshold is the luckiest of many, so that the plain share of right answers promises too much. The
    # extra wrong answer is the correction of conformal risk control (Angelopoulos et al., ICLR 2024, arXiv:2208.02814:
    # the mean loss over the images seen and one at its worst) for the loss wrong - (1 - precision) of an answered
    # image. Its proof needs a loss that falls with the threshold, which this one need not, hence a simulation: 50, 200
    # and 1000 images, six makings of confidences (calibrated, overconfident, uninformative; precisions 0.9 to 0.99),
    # 4000 draws each. The mean share of wrong answers on new images was above the allowed one in all 18 cases without
    # the correction, up to 2.4 times it, and in none with it; at 1000 images that cost at most 0.05 of coverage.
    # The interval missed the long-run precision in at most 3.6 % of draws; where the precision is out of reach, the
    # few draws that answer at all are the lucky ones, and it missed in up to a third of those.
    answered, right, threshold = _accumulate(confidences, correct)
    # A quotient and the decimal fraction equal to it round to the same float; a product and its count may not.
    reached = np.flatnonzero(right / (answered + 1) >= precision)
    lowest = float(threshold[reached[-1]]) if len(reached) else NEVER_ANSWERS
    return apply_threshold(confidences, correct, lowest, precision)


def apply_threshold(confidences: np.ndarray, correct: np.ndarray, threshold: float, wanted: float) -> Abstention:
    """Return what a threshold, chosen for the precision wanted, does on these images."""
    answers = correct[confidences >= threshold]
    answered, right = len(answers), int(answers.sum())
    low, high = confidence_interval(right, answered)
    return Abstention(threshold, wanted, len(correct), answered, right / answered if answered else None, low, high)


def confidence_interval(hits: int, trials: int) -> tuple[float, float]:
    """Return Clopper and Pearson's 95 % interval of a share, within [0, 1]."""
    # Exact (Biometrika 26, 1934): Wilson's interval is narrower but misses more often than 5 % near 1, where precisions
    # lie.
    tail = (1 - INTERVAL) / 2
    low = float(betaincinv(hits, trials - hits + 1, tail)) if hits else 0.0
    return low, float(betaincinv(hits + 1, trials - hits, 1 - tail)) if hits < trials else 1.0


def coverage_curve(confidences: np.ndarray, correct: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return coverage, accuracy of the answered images and threshold, each float[K], K <= 200, coverage rising."""
    answered, right, threshold = _accumulate(confidences, correct)
    shown = np.unique(np.linspace(0, len(answered) - 1, min(len(answered), CURVE_POINTS)).round().astype(int))
    return answered[shown] / len(correct), right[shown] / answered[shown], threshold[shown]


def calibration_bins(confidences: np.ndarray, correct: np.ndarray, bins: int = BINS) -> Bins:
    """Sort images into bins of equal width, each with its upper edge, the first with 0 as well."""
    bin_of = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], confidences)
    count = np.bincount(bin_of, minlength=bins)
    filled = count > 0
    sums = (np.bincount(bin_of, values, bins)[filled] for values in (confidences, correct))
    confidence, accuracy = (values / count[filled] for values in sums)
    return Bins(count[filled], confidence, accuracy)


def expected_calibration_error(bins: Bins) -> float:
    """Return the mean distance of accuracy from confidence, weighted by images (Guo et al., arXiv:1706.04599)."""
    return float(np.average(np.abs(bins.accuracy - bins.confidence), weights=bins.images))


def _accumulate(confidences: np.ndarray, correct: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return for each distinct confidence, highest first, how many are answered and right there, and the confidence."""
    order = np.argsort(-confidences, kind="stable")
    ranked, right = confidences[order], np.cumsum(correct[order])
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], len(ranked) > 0))
    return last + 1, right[last], ranked[last]
