"""Reliability of predicted probabilities: abstention, coverage and accuracy, calibration.

In all functions, confidences float[N] in [0, 1] are the probabilities of the predicted classes, correct bool[N] marks
the right predictions, and the model answers an image if its confidence reaches the threshold.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import betaincinv  # type: ignore[import-untyped]

NEVER_ANSWERS = 2.0  # a threshold that no probability reaches
INTERVAL = 0.95
CURVE_POINTS = 200
BINS = 15  # as in Guo et al. 2017


@dataclass(frozen=True)
class Abstention:
    """A threshold in [0, 1] or NEVER_ANSWERS, and its effect on some images.

    wanted is the precision that it was chosen for. precision is the fraction of right answers on these images, None
    without answers; low and high are its 95 % confidence interval.
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
        """The fraction of images that are answered."""
        return self.answered / self.images if self.images else 0.0


class Bins(NamedTuple):
    """The K bins that have images, lowest first: images int[K], mean confidence and accuracy float[K]."""

    images: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray


def choose_abstention(confidences: np.ndarray, correct: np.ndarray, precision: float) -> Abstention:
    """Return the lowest threshold that reaches the precision in (0, 1) with one wrong answer added.

    Images of equal confidence are answered together. If no threshold reaches the precision, nothing is answered.
    """
    # The lowest threshold is the luckiest of many, so the plain fraction of right answers is too high an estimate. The
    # added wrong answer is the correction of conformal risk control (Angelopoulos et al., ICLR 2024, arXiv:2208.02814:
    # the mean loss over the images seen and one at its worst) for the loss wrong - (1 - precision) of an answered
    # image. Its proof needs a loss that falls with the threshold, which this loss may not do. Hence a simulation: 50,
    # 200 and 1000 images, six distributions of confidences (calibrated, overconfident, uninformative; precisions 0.9 to
    # 0.99), 4000 draws each. Without the correction, the mean fraction of wrong answers on new images exceeded the
    # allowed one in all 18 cases, up to 2.4 times; with it, in none, at a cost of at most 0.05 of coverage at 1000
    # images. The interval missed the long-run precision in at most 3.6 % of draws. If the precision is out of reach,
    # the few draws that answer at all are the lucky ones, and the interval missed in up to a third of those.
    answered, right, threshold = _accumulate(confidences, correct)
    # A quotient and the decimal fraction equal to it round to the same float; a product and its count may not.
    reached = np.flatnonzero(right / (answered + 1) >= precision)
    lowest = float(threshold[reached[-1]]) if len(reached) else NEVER_ANSWERS
    return apply_threshold(confidences, correct, lowest, precision)


def apply_threshold(confidences: np.ndarray, correct: np.ndarray, threshold: float, wanted: float) -> Abstention:
    """Return the effect on these images of a threshold that was chosen for the precision wanted."""
    answers = correct[confidences >= threshold]
    answered, right = len(answers), int(answers.sum())
    low, high = confidence_interval(right, answered)
    return Abstention(threshold, wanted, len(correct), answered, right / answered if answered else None, low, high)


def confidence_interval(hits: int, trials: int) -> tuple[float, float]:
    """Return the 95 % interval of Clopper and Pearson (Biometrika 26, 1934) of a fraction, within [0, 1]."""
    # It is exact: Wilson's interval is narrower, but near 1 it misses more often than 5 %.
    tail = (1 - INTERVAL) / 2
    low = float(betaincinv(hits, trials - hits + 1, tail)) if hits else 0.0
    return low, float(betaincinv(hits + 1, trials - hits, 1 - tail)) if hits < trials else 1.0


def coverage_curve(confidences: np.ndarray, correct: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return coverage, accuracy of the answered images and threshold, each float[K], K <= 200, in order of coverage."""
    answered, right, threshold = _accumulate(confidences, correct)
    shown = np.unique(np.linspace(0, len(answered) - 1, min(len(answered), CURVE_POINTS)).round().astype(int))
    return answered[shown] / len(correct), right[shown] / answered[shown], threshold[shown]


def calibration_bins(confidences: np.ndarray, correct: np.ndarray, bins: int = BINS) -> Bins:
    """Return bins of equal width over [0, 1]; each includes its upper edge, the first one also 0."""
    bin_of = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], confidences)
    count = np.bincount(bin_of, minlength=bins)
    filled = count > 0
    sums = (np.bincount(bin_of, values, bins)[filled] for values in (confidences, correct))
    confidence, accuracy = (values / count[filled] for values in sums)
    return Bins(count[filled], confidence, accuracy)


def expected_calibration_error(bins: Bins) -> float:
    """Return the mean of |accuracy - confidence| weighted by images (Guo et al. 2017, arXiv:1706.04599)."""
    return float(np.average(np.abs(bins.accuracy - bins.confidence), weights=bins.images))


def _accumulate(confidences: np.ndarray, correct: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the answers and right answers at each distinct confidence, highest first, and these confidences."""
    order = np.argsort(-confidences, kind="stable")
    ranked, right = confidences[order], np.cumsum(correct[order])
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], len(ranked) > 0))
    return last + 1, right[last], ranked[last]
