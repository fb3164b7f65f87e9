import numpy as np
import pytest
from sklearn.linear_model import Ridge

from components.audit import label_errors
from components.audit.label_errors import (
    FEWEST_GROUPS,
    find_checked,
    find_label_issues,
    find_principal_components,
    predict_left_out,
)
from components.audit.similarity import to_embeddings


def draw_clusters(per_class=40, classes=6, dim=24, noise=0.7, seed=0):
    """Return embeddings of Gaussian clusters and their labels."""
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), per_class)
    centres = random.normal(size=(classes, dim))
    return to_embeddings((centres[labels] + noise * random.normal(size=(len(labels), dim))).astype(np.float32)), labels


def swap_labels(labels, fraction, seed=0):
    """Return labels of which a fraction is another class' and the rows of that fraction."""
    random = np.random.default_rng(seed)
    rows = random.choice(len(labels), round(fraction * len(labels)), replace=False)
    swapped, classes = labels.copy(), labels.max() + 1
    swapped[rows] = (swapped[rows] + random.integers(1, classes, len(rows))) % classes
    return swapped, set(rows.tolist())


def alone(labels):
    return np.arange(len(labels))


@pytest.mark.parametrize("dim", [5, 24, 400])
def test_scores_are_those_of_models_fitted_without_the_group(monkeypatch, dim):
    """With few dimensions, groups have more rows than dimensions; with many, there are more dimensions than rows."""
    monkeypatch.setattr(label_errors, "RIDGE_PENALTIES", (0.3,))
    embeddings, labels = draw_clusters(per_class=12, dim=dim)
    groups = np.random.default_rng(0).permutation(np.r_[np.zeros(9, int), np.repeat(np.arange(1, 6), 3), 10:58])
    scores = predict_left_out(embeddings, labels, groups, np.ones(len(labels), bool))
    _, eigenvalues = find_principal_components(embeddings)
    targets = np.eye(6)[labels]
    for group in np.unique(groups):
        left_out = groups == group
        ridge = Ridge(0.3 * eigenvalues.mean()).fit(embeddings[~left_out].astype(np.float64), targets[~left_out])
        np.testing.assert_allclose(scores[left_out], ridge.predict(embeddings[left_out]), atol=2e-3)


@pytest.mark.parametrize("seed", range(3))
def test_swapped_labels_are_named_with_the_right_one_suggested(seed):
    embeddings, truth = draw_clusters(seed=seed)
    labels, swapped = swap_labels(truth, 0.05, seed)
    issues = find_label_issues(embeddings, labels, alone(labels))
    named = [issue.row for issue in issues]
    assert len(swapped & set(named)) >= 0.8 * len(swapped)
    assert len(set(named) - swapped) <= 0.02 * len(labels)
    assert [issue.suggested for issue in issues if issue.row in swapped] == [
        truth[row] for row in named if row in swapped
    ]
    for issue in issues:
        assert 0 <= issue.label_confidence < issue.suggested_confidence <= 1
    assert not {issue.row for issue in issues[: len(swapped) // 2]} - swapped


def test_right_labels_of_overlapping_classes_are_seldom_named():
    embeddings, labels = draw_clusters(noise=2)
    wrong = predict_left_out(embeddings, labels, alone(labels), np.ones(240, bool)).argmax(1) != labels
    assert wrong.sum() >= 20
    assert len(find_label_issues(embeddings, labels, alone(labels))) <= 0.4 * wrong.sum()


def test_copies_of_a_wrong_label_are_left_out_together():
    embeddings, labels = draw_clusters()
    wrong = np.r_[np.repeat(3, 12)]  # one image of class 0, twelve times under class 5
    embeddings, labels = np.concatenate([embeddings, embeddings[wrong]]), np.r_[labels, np.full(12, 5)]
    groups = np.r_[np.arange(240), wrong]
    copies = set(range(240, 252))
    assert copies <= {issue.row for issue in find_label_issues(embeddings, labels, groups)}
    assert not copies & {issue.row for issue in find_label_issues(embeddings, labels, alone(labels))}


def test_labels_of_tiny_classes_are_not_checked():
    embeddings, labels = draw_clusters(noise=1.5)
    for label, count in ((6, 1), (7, 2), (8, FEWEST_GROUPS - 1)):
        labels[label * 3 : label * 3 + count] = label  # all of them look like class 0
    issues = find_label_issues(embeddings, labels, alone(labels))
    assert all(labels[issue.row] < 6 for issue in issues)
    assert np.isfinite([issue[2:] for issue in issues]).all()


def test_a_class_of_copies_counts_its_groups_not_its_images():
    labels = np.r_[np.zeros(20, int), np.ones(20, int)]
    groups = np.r_[np.zeros(20, int), np.arange(1, 21)]
    np.testing.assert_array_equal(find_checked(labels, groups), labels == 1)


@pytest.mark.parametrize("vectors", [np.zeros((60, 4)), np.ones((60, 4)), np.repeat(np.eye(4), 15, 0)])
@pytest.mark.filterwarnings("error")
def test_equal_images_name_no_label(vectors):
    embeddings = to_embeddings(vectors.astype(np.float32))
    labels = np.arange(60) % 3
    assert find_label_issues(embeddings, labels, alone(labels)) == []
    assert find_label_issues(embeddings, labels, np.zeros(60, int)) == []
    assert np.isfinite(predict_left_out(embeddings, labels, alone(labels), np.ones(60, bool))).all()


@pytest.mark.parametrize("count", [0, 1, 50])
def test_a_single_class_is_never_contradicted(count):
    embeddings = to_embeddings(np.random.default_rng(0).normal(size=(count, 4)).astype(np.float32))
    assert find_label_issues(embeddings, np.zeros(count, np.int64), np.arange(count)) == []


def test_the_order_of_the_images_does_not_matter():
    embeddings, truth = draw_clusters()
    labels, _ = swap_labels(truth, 0.05)
    order = np.random.default_rng(0).permutation(len(labels))
    issues = find_label_issues(embeddings, labels, alone(labels))
    assert issues == find_label_issues(embeddings, labels, alone(labels))
    moved = find_label_issues(embeddings[order], labels[order], alone(labels))
    assert [order[issue.row] for issue in moved] == [issue.row for issue in issues]


def test_very_wide_bottlenecks_are_checked_by_a_projection(monkeypatch):
    monkeypatch.setattr(label_errors, "WIDEST", 60)
    embeddings, truth = draw_clusters(dim=600, noise=1.5)
    components, _ = find_principal_components(embeddings)
    assert components.shape == (240, 60)
    labels, swapped = swap_labels(truth, 0.05)
    named = {issue.row for issue in find_label_issues(embeddings, labels, alone(labels))}
    assert len(swapped & named) >= 0.8 * len(swapped)


@pytest.mark.parametrize("shape", [(30, 8), (8, 30)])
def test_components_keep_the_products_of_centred_rows(shape):
    embeddings = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    components, eigenvalues = find_principal_components(embeddings)
    centred = embeddings - embeddings.mean(0)
    np.testing.assert_allclose(components @ components.T, centred @ centred.T, atol=1e-3)
    np.testing.assert_allclose(np.square(components).sum(0), eigenvalues, atol=1e-3)
