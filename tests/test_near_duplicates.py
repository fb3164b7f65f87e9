import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from components import near_duplicates
from components.directions import to_directions
from components.near_duplicates import TWIN_MARGIN, Pair, find_near_duplicates, group_rows


def draw_directions(count, dim=16, seed=0, spread=0.4):
    """Return unit rows in loose clusters, so that cosines of all sizes occur."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(count // 5, dim))
    rows = centres[random.integers(0, len(centres), count)] + spread * random.normal(size=(count, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def search_all(directions, labels, threshold):
    """Return {(row_a, row_b): cosine} by comparing every row with every other, one at a time."""
    count = len(directions)
    cosines = [[float(np.dot(one, other)) for other in directions.astype(np.float64)] for one in directions]

    def nearest(row):
        others = [other for other in range(count) if labels[other] != labels[row]]
        return max(others, key=lambda other: cosines[row][other], default=None)

    found = {}
    for a in range(count):
        for b in range(a + 1, count):
            twins = nearest(a) == b and nearest(b) == a
            if cosines[a][b] >= threshold or (twins and cosines[a][b] >= threshold - TWIN_MARGIN):
                found[a, b] = cosines[a][b]
    return found


@pytest.mark.parametrize("classes", [1, 3])
def test_pairs_are_those_of_a_search_through_all(monkeypatch, classes):
    monkeypatch.setattr(near_duplicates, "BLOCK", 23)  # several blocks, the last one shorter
    directions = draw_directions(120)
    labels = np.random.default_rng(1).integers(0, classes, 120)
    pairs = find_near_duplicates(directions, labels, 0.9)
    expected = search_all(directions, labels, 0.9)
    assert {(pair.row_a, pair.row_b) for pair in pairs} == set(expected)
    for pair in pairs:
        assert pair.cosine == pytest.approx(expected[pair.row_a, pair.row_b], abs=1e-5)
    assert [pair.cosine for pair in pairs] == sorted((pair.cosine for pair in pairs), reverse=True)
    assert any(pair.cosine < 0.9 for pair in pairs) == (classes > 1)


def test_of_too_many_pairs_the_closest_are_kept(monkeypatch):
    monkeypatch.setattr(near_duplicates, "BLOCK", 23)
    directions, labels = draw_directions(120), np.zeros(120, np.int64)
    assert find_near_duplicates(directions, labels, 0.5, most=30) == find_near_duplicates(directions, labels, 0.5)[:30]


def test_images_that_are_all_the_same_do_not_explode():
    directions = to_directions(np.full((5000, 8), 0.3, np.float32))
    pairs = find_near_duplicates(directions, np.arange(5000) % 2, 0.95, most=50)
    assert len(pairs) == 50
    assert all(pair.row_a < pair.row_b and pair.cosine == pytest.approx(1) for pair in pairs)


def test_copies_are_found_in_a_set_as_small_as_can_be():
    vectors = np.random.default_rng(0).uniform(size=(2, 6)).astype(np.float32)
    assert [pair[:2] for pair in find_near_duplicates(to_directions(vectors[[0, 0]]), np.array([0, 1]), 0.95)] == [
        (0, 1)
    ]
    assert not find_near_duplicates(to_directions(vectors), np.array([0, 0]), 0.95)


@pytest.mark.parametrize("count", [0, 1])
def test_less_than_two_images_have_no_pair(count):
    directions = to_directions(np.ones((count, 4), np.float32))
    assert directions.shape == (count, 4)
    assert find_near_duplicates(directions, np.zeros(count, np.int64), 0.9) == []


def test_rows_of_zeros_have_no_direction_and_no_pair():
    directions = to_directions(np.zeros((5, 4), np.float32))
    np.testing.assert_array_equal(directions, np.zeros((5, 4)))
    assert find_near_duplicates(directions, np.zeros(5, np.int64), 0.9) == []


def test_copies_stand_out_where_all_images_are_alike():
    random = np.random.default_rng(0)
    vectors = 10 + random.normal(size=(300, 64)).astype(np.float32)
    vectors[7] = vectors[200] + 0.1 * random.normal(size=64)
    labels = np.zeros(300, np.int64)
    plain = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert len(find_near_duplicates(plain, labels, 0.95)) == near_duplicates.MOST_PAIRS
    assert [pair[:2] for pair in find_near_duplicates(to_directions(vectors), labels, 0.95)] == [(7, 200)]


@given(
    names=st.lists(st.sampled_from([b"a", b"b", b"c", b"d", b"e", b"f"]), min_size=1, max_size=20),
    data=st.data(),
)
def test_groups_are_the_connected_components(names, data):
    rows = st.integers(0, len(names) - 1)
    pairs = [Pair(a, b, 1.0) for a, b in data.draw(st.lists(st.tuples(rows, rows), max_size=10))]
    groups = group_rows(names, pairs)
    edges = [(pair.row_a, pair.row_b) for pair in pairs]
    edges += [(a, b) for a in range(len(names)) for b in range(a) if names[a] == names[b]]
    ends = np.array(edges, int).reshape(-1, 2).T
    _, expected = connected_components(coo_matrix((np.ones(len(edges)), tuple(ends)), [len(names)] * 2), directed=False)
    np.testing.assert_array_equal(groups[:, None] == groups, expected[:, None] == expected)
