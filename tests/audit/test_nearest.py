import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from components.audit import nearest
from components.audit.nearest import find_nearest


def draw(count, seed):
    directions = np.random.default_rng(seed).normal(size=(count, 16)).astype(np.float32)
    return directions / np.linalg.norm(directions, axis=1, keepdims=True)


@pytest.mark.parametrize("block", [7, 2048])
def test_the_nearest_are_those_of_scikit_learn_whatever_the_block(monkeypatch, block):
    monkeypatch.setattr(nearest, "BLOCK", block)
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
