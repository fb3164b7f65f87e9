import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from components.audit import similarity
from components.audit.similarity import (
    PRIOR_IMAGES,
    VARIANCE_FLOOR,
    find_nearest,
    fit_standardization,
    standardize,
    to_embeddings,
)


def draw_bottlenecks(count=200, dim=20):
    return np.random.default_rng(0).gamma(1, 3, (count, dim)).astype(np.float32)


def test_embeddings_have_length_one():
    embeddings = to_embeddings(draw_bottlenecks())
    assert embeddings.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)


def test_neither_a_large_unit_nor_one_that_seldom_fires_outweighs_the_others():
    vectors = np.random.default_rng(0).normal(3, 1, (500, 20)).astype(np.float32)
    vectors[:, 5] *= 100
    vectors[:, 6:8] = 0
    vectors[3, 7] = 1e-3
    embeddings = to_embeddings(vectors)
    assert embeddings[:, 5].std() < 10 * embeddings[:, 0].std()
    np.testing.assert_array_equal(embeddings[:, 6], 0)
    assert abs(embeddings[3, 7]) < 0.01


def test_the_standardization_is_that_of_numpy_with_images_of_zeros_and_a_floor():
    vectors = draw_bottlenecks()
    fitted = fit_standardization([vectors])
    padded = np.vstack([vectors, np.zeros((PRIOR_IMAGES, 20))])
    np.testing.assert_allclose(fitted.mean, padded.mean(0), rtol=1e-5)
    variance = vectors.astype(np.float64).var(0)
    np.testing.assert_allclose(fitted.scale, np.sqrt(variance + VARIANCE_FLOOR * variance.mean()), rtol=1e-5)


@pytest.mark.parametrize("block", [1, 7, 200])
def test_rows_in_blocks_are_standardized_as_all_at_once(block):
    vectors = draw_bottlenecks()
    fitted = fit_standardization(vectors[start : start + block] for start in range(0, 200, block))
    rows = [standardize(vectors[[row]], fitted)[0] for row in range(200)]
    np.testing.assert_allclose(rows, to_embeddings(vectors), atol=1e-6)


def draw(count, seed):
    embeddings = np.random.default_rng(seed).normal(size=(count, 16)).astype(np.float32)
    return embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)


@pytest.mark.parametrize("block", [7, 2048])
def test_the_nearest_are_those_of_scikit_learn_whatever_the_block(monkeypatch, block):
    monkeypatch.setattr(similarity, "QUERIES_AT_ONCE", block)
    queries, pool = draw(30, 0), draw(50, 1)
    found = find_nearest(queries, pool, 4)
    distances, rows = NearestNeighbors(n_neighbors=4, metric="cosine").fit(pool).kneighbors(queries)
    np.testing.assert_array_equal(found.rows, rows)
    np.testing.assert_allclose(found.cosines, 1 - distances, atol=1e-5)


def test_of_equal_ones_the_first_is_nearest():
    pool = np.repeat(draw(1, 0), 3, axis=0)
    assert find_nearest(pool[:1], pool, 2).rows.tolist() == [[0, 1]]


def test_there_are_no_more_than_the_pool_has_and_none_of_no_query():
    assert find_nearest(draw(2, 0), draw(3, 1), 5).rows.shape == (2, 3)
    assert find_nearest(draw(0, 0), draw(3, 1), 2).rows.shape == (0, 2)
    assert find_nearest(draw(2, 0), draw(0, 1), 2).rows.shape == (2, 0)
