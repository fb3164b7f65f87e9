import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from components.logistic_regression import FOLDS, PENALTIES, choose_penalty, fit_linear, make_objective, split_folds


def make_data(count=150, seed=0):
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, count)
    return (np.eye(3, 5)[labels] + random.normal(0, 0.7, (count, 5))).astype(np.float32), labels


@pytest.mark.parametrize("class_weights", [None, [0.5, 1.0, 2.0]])
def test_the_optimum_is_that_of_scikit_learn(class_weights):
    values, labels = make_data()
    found = fit_linear(make_objective(values, labels, 3, 0.0, class_weights), 0.01, steps=300)
    model = LogisticRegression(C=1 / (0.01 * len(labels)), tol=1e-8, max_iter=1000)
    model.fit(values, labels, sample_weight=None if class_weights is None else np.array(class_weights)[labels])
    np.testing.assert_allclose(found.weights, model.coef_.T, atol=5e-3)
    differences = found.biases - found.biases.mean()
    np.testing.assert_allclose(differences, model.intercept_ - model.intercept_.mean(), atol=5e-3)


def test_the_penalty_chosen_is_the_best_on_what_is_held_out():
    train, held_out = (make_objective(*make_data(seed=seed), 3, 0.0, None) for seed in (1, 2))
    solution, scores = None, []
    for l2 in PENALTIES:
        solution = fit_linear(train, l2, solution)
        hits = (held_out.values @ solution.weights + solution.biases).argmax(1) == held_out.targets.argmax(1)
        scores.append(hits.sum())
    assert choose_penalty(train, held_out) == PENALTIES[int(np.argmax(scores))]
    assert choose_penalty(train) in PENALTIES


@given(st.lists(st.integers(0, 4), min_size=FOLDS, max_size=60))
def test_folds_cover_each_example_once_and_spread_every_class(labels):
    labels = np.array(labels)
    values = np.arange(len(labels), dtype=np.float32)[:, None]
    seen = []
    for fitted, judged in split_folds(make_objective(values, labels, 5, 0.0, None)):
        assert not set(fitted.values[:, 0]) & set(judged.values[:, 0])
        assert len(fitted.values) + len(judged.values) == len(labels)
        counts = judged.targets.sum(0)
        assert (np.abs(counts - np.bincount(labels, minlength=5) / FOLDS) < 1).all()
        seen += judged.values[:, 0].tolist()
    assert sorted(seen) == list(range(len(labels)))
