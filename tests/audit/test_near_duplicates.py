import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from components.audit import near_duplicates
from components.audit.near_duplicates import MUTUAL_MARGIN, find_near_duplicates, join_groups
from components.audit.similarity import to_embeddings


def draw_embeddings(count, dim=16, seed=0, spread=0.4):
    """Return unit rows in loose clusters, so that cosines of all sizes occur."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(count // 5, dim))
    rows = centres[random.integers(0, len(centres), count)] + spread * random.normal(size=(count, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def search_all(embeddings, labels, threshold):
    """Return {(row_a, row_b): cosine} by comparing every row with every other, one at a time."""
    count = len(embeddings)
    cosines = [[float(np.dot(one, other)) for other in embeddings.astype(np.float64)] for one in embeddings]

    def nearest(row):
        others = [other for other in range(count) if labels[other] != labels[row]]
        return max(others, key=lambda other: cosines[row][other], default=None)

    found = {}
    for a in range(count):
        for b in range(a + 1, count):
            mutual = nearest(a) == b and nearest(b) == a
            if cosines[a][b] >= threshold or (mutual and cosines[a][b] >= threshold - MUTUAL_MARGIN):
                found[a, b] = cosines[a][b]
    return found


def find(embeddings, labels, threshold, splits=None, groups=None, **most):
    """Find near-duplicates, of one split where none are given, with each row a group of its own."""
    count = len(labels)
    splits = np.zeros(count, np.int64) if splits is None else splits
    return find_near_duplicates(
        embeddings, labels, splits, np.arange(count) if groups is None else groups, threshold, **most
    )


def component_of(count, edges):
    """Return bool[N, N]: whether two rows are linked by any chain of edges."""
    ends = np.array([*edges], int).reshape(-1, 2).T
    _, components = connected_components(coo_matrix((np.ones(ends.shape[1]), tuple(ends)), [count] * 2), directed=False)
    return components[:, None] == components


@pytest.mark.parametrize("most", [1, 30, 10_000])
@pytest.mark.parametrize("classes", [1, 3])
def test_pairs_are_those_of_a_search_through_all_and_numbers_do_not_depend_on_how_many_are_kept(
    monkeypatch, classes, most
):
    monkeypatch.setattr(near_duplicates, "BLOCK_ROWS", 23)  # several blocks, the last one shorter
    embeddings = draw_embeddings(120)
    random = np.random.default_rng(1)
    labels, splits = random.integers(0, classes, 120), random.integers(0, 3, 120)
    found = find(embeddings, labels, 0.9, splits, most=most)
    expected = search_all(embeddings, labels, 0.9)
    assert found.total == len(expected) > 30
    assert found.leaks == sum(splits[a] != splits[b] for a, b in expected) > 0
    near_splits = np.zeros((120, 3), bool)
    for a, b in expected:
        near_splits[a, splits[b]] = near_splits[b, splits[a]] = True
    np.testing.assert_array_equal(found.splits, near_splits)
    np.testing.assert_array_equal(found.groups[:, None] == found.groups, component_of(120, expected))
    closest = sorted(expected, key=lambda pair: (-expected[pair], pair))[:most]
    assert [pair[:2] for pair in found.pairs] == closest
    for row_a, row_b, cosine in found.pairs:
        assert cosine == pytest.approx(expected[row_a, row_b], abs=1e-5)
    assert any(cosine < 0.9 for cosine in expected.values()) == (classes > 1)


def test_images_that_are_all_the_same_keep_the_closest_pairs():
    embeddings = to_embeddings(np.full((5000, 8), 0.3, np.float32))
    splits = np.arange(5000) // 2500
    found = find(embeddings, np.arange(5000) % 2, 0.95, splits, most=50)
    assert len(found.pairs) == 50
    assert all(row_a < row_b and cosine == pytest.approx(1) for row_a, row_b, cosine in found.pairs)
    assert (found.total, found.leaks) == (5000 * 4999 // 2, 2500 * 2500)
    assert found.splits.all() and len(np.unique(found.groups)) == 1


def test_the_nearest_of_another_label_is_known_of_each_row(monkeypatch):
    monkeypatch.setattr(near_duplicates, "BLOCK_ROWS", 23)
    embeddings, labels = draw_embeddings(120), np.random.default_rng(1).integers(0, 3, 120)
    nearest = find(embeddings, labels, 0.9).nearest
    cosines = np.where(labels[:, None] == labels, -2, embeddings @ embeddings.T)
    np.testing.assert_array_equal(nearest.rows, cosines.argmax(1))
    np.testing.assert_allclose(nearest.cosines, cosines.max(1), atol=1e-6)


def test_copies_are_found_in_a_set_of_two_images():
    vectors = np.random.default_rng(0).uniform(size=(2, 6)).astype(np.float32)
    assert [pair[:2] for pair in find(to_embeddings(vectors[[0, 0]]), np.array([0, 1]), 0.95).pairs] == [(0, 1)]
    assert not find(to_embeddings(vectors), np.array([0, 0]), 0.95).pairs


@pytest.mark.parametrize("count", [0, 1])
def test_less_than_two_images_have_no_pair(count):
    embeddings = to_embeddings(np.ones((count, 4), np.float32))
    assert embeddings.shape == (count, 4)
    found = find(embeddings, np.zeros(count, np.int64), 0.9)
    assert (found.pairs, found.total, found.leaks) == ([], 0, 0)


def test_rows_of_zeros_have_no_direction_and_no_pair():
    embeddings = to_embeddings(np.zeros((5, 4), np.float32))
    np.testing.assert_array_equal(embeddings, np.zeros((5, 4)))
    assert find(embeddings, np.zeros(5, np.int64), 0.9).total == 0


def test_copies_are_found_where_all_images_are_alike():
    random = np.random.default_rng(0)
    vectors = 10 + random.normal(size=(300, 64)).astype(np.float32)
    vectors[7] = vectors[200] + 0.1 * random.normal(size=64)
    labels = np.zeros(300, np.int64)
    plain = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert find(plain, labels, 0.95).total == 300 * 299 // 2
    assert [pair[:2] for pair in find(to_embeddings(vectors), labels, 0.95).pairs] == [(7, 200)]


@given(
    groups=st.lists(st.integers(0, 5), min_size=1, max_size=20),
    data=st.data(),
)
def test_groups_are_the_connected_components(groups, data):
    count, rows = len(groups), st.integers(0, len(groups) - 1)
    pairs = data.draw(st.lists(st.tuples(rows, rows), max_size=10))
    ends = np.array(pairs, int).reshape(-1, 2).T
    joined = join_groups(np.array(groups), *ends)
    edges = [*pairs, *((a, b) for a in range(count) for b in range(a) if groups[a] == groups[b])]
    np.testing.assert_array_equal(joined[:, None] == joined, component_of(count, edges))
