import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import binom
from sklearn.calibration import calibration_curve

from components.metrics.calibration import (
    NEVER_ANSWERS,
    apply_threshold,
    calibration_bins,
    choose_abstention,
    confidence_interval,
    coverage_curve,
    expected_calibration_error,
)


@st.composite
def images(draw, least=1):
    """Confidences float[N], many of them equal, and correct bool[N]."""
    count = draw(st.integers(least, 60))
    confidences = draw(arrays(np.float32, count, elements=st.integers(0, 12).map(lambda tick: np.float32(tick / 12))))
    return confidences, draw(arrays(bool, count))


def precision_with_one_more_wrong(confidences, correct, threshold):
    answers = [right for confidence, right in zip(confidences, correct, strict=True) if confidence >= threshold]
    return sum(answers) / (len(answers) + 1)


precisions = st.sampled_from([0.5, 0.7, 0.8, 0.9, 0.95])


@given(images(least=0), precisions)
def test_the_threshold_reaches_the_precision_and_no_lower_one_does(drawn, precision):
    confidences, correct = drawn
    chosen = choose_abstention(confidences, correct, precision)
    enough = [
        value for value in set(confidences) if precision_with_one_more_wrong(confidences, correct, value) >= precision
    ]
    assert chosen.threshold == min(enough, default=NEVER_ANSWERS)
    assert chosen.answered == sum(confidences >= chosen.threshold)
    assert (chosen.answered == 0) == (chosen.precision is None) == (chosen.threshold > 1)
    if chosen.answered:
        assert chosen.precision == np.mean(correct[confidences >= chosen.threshold]) >= precision
        assert chosen.low <= chosen.precision <= chosen.high


@given(images(), precisions, st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(drawn, precision, random):
    confidences, correct = drawn
    order = random.sample(range(len(correct)), len(correct))
    shuffled = confidences[order], correct[order]
    assert choose_abstention(*shuffled, precision) == choose_abstention(confidences, correct, precision)
    for one, other in zip(coverage_curve(*shuffled), coverage_curve(confidences, correct), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_confident_mistake_forbids_nothing_and_a_lucky_image_allows_nothing():
    confidences = np.linspace(1, 0.5, 100)
    correct = np.arange(100) != 0
    assert choose_abstention(confidences, correct, 0.95).answered == 100
    assert choose_abstention(confidences, ~correct, 0.95).threshold == NEVER_ANSWERS


@pytest.mark.parametrize("precision, needed", [(0.9, 9), (0.95, 19), (0.99, 99), (0.999, 999)])
def test_a_precision_needs_as_many_images_as_show_it(precision, needed):
    right = np.ones(needed, bool)
    assert choose_abstention(np.full(needed, 0.8), right, precision).answered == needed
    assert choose_abstention(np.full(needed - 1, 0.8), right[1:], precision).answered == 0


def test_a_threshold_on_other_images_is_counted_there():
    measured = apply_threshold(np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, False, True, True]), 0.7, 0.95)
    assert (measured.images, measured.answered, measured.coverage) == (4, 3, 0.75)
    assert measured.precision == pytest.approx(2 / 3)
    assert apply_threshold(np.array([]), np.array([], bool), 0.7, 0.95).coverage == 0


@pytest.mark.parametrize("hits, trials", [(1, 1), (0, 7), (95, 100), (100, 100), (431, 1000)])
def test_the_interval_contains_the_fractions_that_no_tail_of_the_binomial_rejects(hits, trials):
    low, high = confidence_interval(hits, trials)
    assert low == 0 if hits == 0 else binom.sf(hits - 1, trials, low) == pytest.approx(0.025)
    assert high == 1 if hits == trials else binom.cdf(hits, trials, high) == pytest.approx(0.025)


@pytest.mark.parametrize("sharp", [True, False])
def test_answers_to_new_images_are_as_precise_as_wanted_and_the_interval_says_how_precise(sharp):
    random = np.random.default_rng(0)
    wrong, missed = [], 0

    def draw(count):
        confidences = random.beta(4, 1.8, count)
        return confidences, random.random(count) < (confidences if sharp else 0.8)

    for _ in range(300):
        chosen = choose_abstention(*draw(200), 0.9)
        truth = apply_threshold(*draw(20_000), chosen.threshold, 0.9)
        wrong.append(0 if truth.precision is None else 1 - truth.precision)
        missed += truth.precision is not None and not chosen.low <= truth.precision <= chosen.high
    assert np.mean(wrong) <= 0.1
    assert missed <= 0.05 * 300


@given(images())
def test_the_curve_counts_the_answers_at_each_threshold(drawn):
    confidences, correct = drawn
    coverage, accuracy, threshold = coverage_curve(confidences, correct)
    assert list(threshold) == sorted(set(confidences), reverse=True)
    for fraction, right, lowest in zip(coverage, accuracy, threshold, strict=True):
        answers = [hit for confidence, hit in zip(confidences, correct, strict=True) if confidence >= lowest]
        assert fraction == len(answers) / len(correct)
        assert right == sum(answers) / len(answers)


def test_a_long_curve_is_thinned_between_its_ends():
    random = np.random.default_rng(0)
    confidences, correct = random.random(5000), random.random(5000) < 0.7
    coverage, accuracy, threshold = coverage_curve(confidences, correct)
    assert len(coverage) == 200
    assert (coverage[0], coverage[-1]) == (1 / 5000, 1)
    assert accuracy[-1] == correct.mean()
    assert np.all(np.diff(coverage) > 0) and np.all(np.diff(threshold) < 0)


@given(images(), st.integers(1, 20))
def test_the_bins_are_those_of_scikit_learn(drawn, bins):
    confidences, correct = drawn
    found = calibration_bins(confidences, correct, bins)
    accuracy, confidence = calibration_curve(correct, confidences, n_bins=bins)
    np.testing.assert_allclose(found.accuracy, accuracy)
    np.testing.assert_allclose(found.confidence, confidence, rtol=1e-6)
    assert found.images.sum() == len(correct)


@given(images(), st.integers(1, 20))
def test_the_calibration_error_is_the_weighted_sum_over_bins(drawn, bins):
    confidences, correct = drawn[0].astype(float), drawn[1]
    edges = np.linspace(0, 1, bins + 1)
    expected = 0.0
    for number in range(bins):
        inside = (confidences > edges[number]) & (confidences <= edges[number + 1])
        if number == 0:
            inside |= confidences == 0
        if inside.any():
            gap = abs(correct[inside].mean() - confidences[inside].mean())
            expected += inside.mean() * gap
    assert expected_calibration_error(calibration_bins(confidences, correct, bins)) == pytest.approx(expected)


def test_calibrated_probabilities_have_next_to_no_calibration_error():
    random = np.random.default_rng(0)
    confidences = random.random(200_000)
    calibrated = calibration_bins(confidences, random.random(200_000) < confidences)
    assert expected_calibration_error(calibrated) < 0.01
    overconfident = calibration_bins(confidences, random.random(200_000) < confidences**2)
    assert expected_calibration_error(overconfident) == pytest.approx(1 / 6, abs=0.01)  # of x - x^2 over [0, 1]
