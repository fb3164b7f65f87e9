import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from components.metrics.paired import correct_holm, difference_interval, mcnemar_test


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (0, 5), (8, 2), (7, 7), (30, 51)])
def test_mcnemars_test_is_the_sign_test_on_the_images_that_changed(gained, lost):
    changed, fewer = gained + lost, min(gained, lost)
    assert mcnemar_test(gained, lost) == pytest.approx(min(1, 2 * binom.cdf(fewer, changed, 0.5)))
    assert mcnemar_test(gained, lost) == mcnemar_test(lost, gained)


@pytest.mark.parametrize(("up", "down", "images"), [(0.02, 0.03, 200), (0.1, 0.1, 60), (0.001, 0.02, 1000), (0, 0, 50)])
def test_the_interval_covers_the_true_difference_in_95_percent_of_samples(up, down, images):
    draws = np.random.default_rng(0).multinomial(images, [up, down, 1 - up - down], 4000)
    intervals = [difference_interval(gained, lost, images) for gained, lost, _ in draws]
    assert np.mean([low <= up - down <= high for low, high in intervals]) > 0.94
    assert all(-1 <= low < high <= 1 for low, high in intervals)


def test_without_a_change_the_interval_still_has_a_width_that_falls_with_the_images():
    few, many = difference_interval(0, 0, 10), difference_interval(0, 0, 1000)
    assert few[0] == -few[1] and many[1] < few[1] / 10


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holms_correction_rejects_what_his_procedure_rejects(p_values):
    corrected = correct_holm(p_values)
    for level in (0.01, 0.05, 0.3):
        rejected = set()
        for rank, at in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
            if p_values[at] * (len(p_values) - rank) > level:
                break
            rejected.add(at)
        assert {at for at, value in enumerate(corrected) if value <= level} == rejected
    assert all(0 <= value <= 1 for value in corrected)
