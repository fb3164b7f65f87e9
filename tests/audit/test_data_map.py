import numpy as np
import pytest
from sklearn.metrics import silhouette_score

from components.audit.data_map import project_embeddings, sample_rows


def test_clusters_stay_apart_and_points_are_the_same_each_time():
    random = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 40)
    vectors = (random.normal(size=(3, 24))[labels] * 3 + random.normal(size=(120, 24))).astype(np.float32)
    points = project_embeddings(vectors)
    assert points.shape == (120, 2) and silhouette_score(points, labels) > 0.4
    np.testing.assert_array_equal(project_embeddings(vectors), points)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 10])
def test_a_few_and_equal_images_have_points(count):
    assert np.isfinite(project_embeddings(np.ones((count, 8), np.float32))).all()
    points = project_embeddings(np.eye(max(count, 8), 8, dtype=np.float32)[:count])
    assert points.shape == (count, 2) and np.isfinite(points).all()


def test_a_sample_has_each_row_once_in_order():
    assert sample_rows(5).tolist() == [0, 1, 2, 3, 4]
    rows = sample_rows(1000, most=50)
    assert len(set(rows.tolist())) == 50 and (np.diff(rows) > 0).all()
