import numpy as np
import pytest

from components.audit.similarity import PRIOR_IMAGES, VARIANCE_FLOOR, measure_spread, standardise, to_directions


def draw_bottlenecks(count=200, dim=20):
    return np.random.default_rng(0).gamma(1, 3, (count, dim)).astype(np.float32)


def test_directions_have_length_one():
    directions = to_directions(draw_bottlenecks())
    assert directions.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1, atol=1e-5)


def test_neither_a_large_unit_nor_one_that_seldom_fires_outweighs_the_others():
    vectors = np.random.default_rng(0).normal(3, 1, (500, 20)).astype(np.float32)
    vectors[:, 5] *= 100
    vectors[:, 6:8] = 0
    vectors[3, 7] = 1e-3
    directions = to_directions(vectors)
    assert directions[:, 5].std() < 10 * directions[:, 0].std()
    np.testing.assert_array_equal(directions[:, 6], 0)
    assert abs(directions[3, 7]) < 0.01


def test_the_spread_is_that_of_numpy_with_images_of_zeros_and_a_floor():
    vectors = draw_bottlenecks()
    spread = measure_spread([vectors])
    padded = np.vstack([vectors, np.zeros((PRIOR_IMAGES, 20))])
    np.testing.assert_allclose(spread.mean, padded.mean(0), rtol=1e-5)
    variance = vectors.astype(np.float64).var(0)
    np.testing.assert_allclose(spread.scale, np.sqrt(variance + VARIANCE_FLOOR * variance.mean()), rtol=1e-5)


@pytest.mark.parametrize("block", [1, 7, 200])
def test_rows_in_blocks_are_standardised_as_all_at_once(block):
    vectors = draw_bottlenecks()
    spread = measure_spread(vectors[start : start + block] for start in range(0, 200, block))
    rows = [standardise(vectors[[row]], spread)[0] for row in range(200)]
    np.testing.assert_allclose(rows, to_directions(vectors), atol=1e-6)
