import tracemalloc

import numpy as np
import pytest
import tensorflow as tf
from sklearn.covariance import shrunk_covariance
from sklearn.preprocessing import StandardScaler, normalize

from components.shards.bottlenecks import Vectors
from components.train.model import L2, STANDARDIZE, WHITEN, normalize_bottleneck
from components.train.normalization import (
    MEAN,
    SCALE,
    WHITENING,
    measure_scaling,
    measure_standardization,
    measure_whitening,
    scale_vectors,
)


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(3, 2, shape).astype(np.float32)


def parts_of(values, ends):
    return [Vectors(part, np.zeros(len(part), np.int64)) for part in np.split(values, ends)]


@pytest.mark.parametrize("views", [1, 3])
def test_mean_and_scale_over_uneven_parts_are_those_of_scikit_learn(views):
    values = draw(101, views, 5)
    start = measure_standardization(parts_of(values, [1, 40]))
    expected = StandardScaler().fit(values.reshape(-1, 5).astype(np.float64))
    np.testing.assert_allclose(start[MEAN], expected.mean_, rtol=1e-6)
    np.testing.assert_allclose(start[SCALE], 1 / expected.scale_, rtol=1e-6)
    assert {value.dtype for value in start.values()} == {np.dtype("float32")}


def test_a_small_standard_deviation_far_from_zero_is_measured():
    values = (1000 + 0.01 * draw(200, 1, 4)).astype(np.float32)
    start = measure_standardization(parts_of(values, [7]))
    np.testing.assert_allclose(start[SCALE], 1 / values[:, 0].astype(np.float64).std(0), rtol=1e-5)


@pytest.mark.parametrize("constant", [0.0, 0.1, 123.456])
def test_a_dimension_that_is_constant_keeps_its_scale(constant):
    values = draw(1000, 1, 3)
    values[..., 1] = constant
    start = measure_standardization(parts_of(values, [333]))
    assert start[SCALE][1] == 1
    assert start[MEAN][1] == np.float32(constant)


@pytest.mark.parametrize("kind", [L2, STANDARDIZE, WHITEN, "none"])
def test_vectors_are_scaled_as_in_the_graph(kind):
    values = draw(20, 6)
    values[3] = 0
    start = {MEAN: draw(6, seed=1), SCALE: np.abs(draw(6, seed=2)), WHITENING: draw(6, 6, seed=3)}
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        scaled = normalize_bottleneck(tf.constant(values), kind)
        for variable in tf.compat.v1.global_variables():
            variable.load(start[f"final_training_ops/{variable.op.name}"], session)
        expected = session.run(scaled)
    np.testing.assert_allclose(scale_vectors(values, kind, start), expected, atol=1e-5)


def test_images_of_a_class_spread_alike_in_all_ways_after_whitening():
    """Where images are many and shrinking is undone, the covariance within classes is a multiple of the identity."""
    labels = np.arange(600) % 3
    values = draw(600, 2, 5) * np.array([5, 1, 1, 3, 1], np.float32) + 9 * labels[:, None, None]
    parts = [Vectors(values[rows], labels[rows]) for rows in np.array_split(np.arange(600), [7, 300])]
    whitening = measure_whitening(lambda: parts, 3)

    flat, of_flat = normalize(values.reshape(-1, 5)) * 5**0.5, np.repeat(labels, 2)
    residuals = np.concatenate([flat[of_flat == label] - flat[of_flat == label].mean(0) for label in range(3)])
    shrunk = 2 * shrunk_covariance(residuals.T @ residuals / len(residuals), shrinkage=0.5)
    spread = whitening.T @ shrunk @ whitening
    np.testing.assert_allclose(spread / spread[0, 0], np.eye(5), atol=1e-4)
    assert np.square(flat @ whitening).sum(1).mean() == pytest.approx(5, rel=1e-4)


def test_a_covariance_of_few_images_is_shrunk_more():
    labels = np.arange(12) % 4
    values = draw(12, 1, 40)
    whitening = measure_whitening(lambda: [Vectors(values, labels)], 4)
    flat = normalize(values[:, 0]) * 40**0.5
    residuals = flat - np.array([flat[labels == label].mean(0) for label in range(4)])[labels]
    shrunk = shrunk_covariance(residuals.T @ residuals / 12, shrinkage=40 / (40 + (12 - 4) / 2))
    spread = whitening.T @ shrunk @ whitening
    np.testing.assert_allclose(spread / spread[0, 0], np.eye(40), atol=1e-4)
    assert np.square(flat @ whitening).sum(1).mean() == pytest.approx(40, rel=1e-4)


def test_whitening_many_classes_takes_no_memory_for_each_class_of_each_image():
    random = np.random.default_rng(0)
    vectors = Vectors(random.normal(size=(20_000, 1, 8)).astype(np.float32), random.integers(0, 1000, 20_000))
    measure_whitening(lambda: [vectors], 1000)
    tracemalloc.start()
    whitening = measure_whitening(lambda: [vectors], 1000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * vectors.values.nbytes  # classes by images would be 125 times as large
    flat = normalize(vectors.values[:, 0]) * 8**0.5
    residuals = flat - np.array([flat[vectors.labels == label].mean(0) for label in range(1000)])[vectors.labels]
    shrunk = 2 * shrunk_covariance(residuals.T @ residuals / len(residuals), shrinkage=0.5)
    spread = whitening.T @ shrunk @ whitening
    np.testing.assert_allclose(spread / spread[0, 0], np.eye(8), atol=1e-4)


def test_fewer_images_than_dimensions_can_be_whitened():
    vectors = Vectors(draw(12, 1, 40), np.arange(12) % 4)
    whitening = measure_whitening(lambda: [vectors], 5)
    assert np.isfinite(whitening).all() and np.linalg.matrix_rank(whitening) == 40


@pytest.mark.parametrize("labels", [[0, 1, 2], [0, 0, 0]])
def test_without_any_spread_within_classes_vectors_stay_as_they_are(labels):
    values = np.repeat(draw(1, 1, 4), 3, 0) if labels == [0, 0, 0] else draw(3, 1, 4)
    np.testing.assert_array_equal(measure_whitening(lambda: [Vectors(values, np.array(labels))], 3), np.eye(4))


@pytest.mark.parametrize(
    "kind, names", [(L2, set()), ("none", set()), (STANDARDIZE, {MEAN, SCALE}), (WHITEN, {WHITENING})]
)
def test_only_what_a_kind_of_scaling_needs_is_measured(kind, names):
    parts = [Vectors(draw(9, 1, 4), np.arange(9) % 2)]
    assert set(measure_scaling(lambda: parts, kind, 2)) == names
