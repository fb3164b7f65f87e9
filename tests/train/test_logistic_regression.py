import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from components.train.logistic_regression import (
    FOLDS,
    L2_CANDIDATES,
    Linear,
    choose_penalty,
    enter_span,
    fit_linear,
    make_objective,
    run_lbfgs,
    score_penalties,
    split_folds,
)


def make_data(count=150, seed=0, dim=5, noise=0.7):
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, count)
    return (np.eye(3, dim)[labels] + random.normal(0, noise, (count, dim))).astype(np.float32), labels


@pytest.mark.parametrize("class_weights", [None, [0.5, 1.0, 2.0]])
def test_the_optimum_is_that_of_scikit_learn(class_weights):
    values, labels = make_data()
    found = fit_linear(make_objective(values, labels, 3, 0.0, class_weights), 0.01, steps=300)
    model = LogisticRegression(C=1 / (0.01 * len(labels)), tol=1e-8, max_iter=1000)
    model.fit(values, labels, sample_weight=None if class_weights is None else np.array(class_weights)[labels])
    np.testing.assert_allclose(found.weights, model.coef_.T, atol=5e-3)
    differences = found.biases - found.biases.mean()
    np.testing.assert_allclose(differences, model.intercept_ - model.intercept_.mean(), atol=5e-3)


def test_two_classes_have_the_probabilities_of_scikit_learns_single_output():
    values, labels = make_data()
    labels = labels % 2
    weights, biases = fit_linear(make_objective(values, labels, 2, 0.0, None), 0.02, steps=300)
    # The squares of two opposite weights sum to half of the square of their difference.
    model = LogisticRegression(C=2 / (0.02 * len(labels)), tol=1e-8, max_iter=1000).fit(values, labels)
    np.testing.assert_allclose(weights[:, 1] - weights[:, 0], model.coef_[0], atol=5e-3)
    np.testing.assert_allclose(biases[1] - biases[0], model.intercept_[0], atol=5e-3)


def loss_in_keras(values, labels, smoothing, class_weights, l2, linear):
    """Return the objective in float64 as Keras has it, of which the penalty is of weights only."""
    kind = tf.keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=smoothing)
    logits = values.astype(np.float64) @ linear.weights + linear.biases
    mean = kind(np.eye(3)[labels], logits, np.array(class_weights)[labels]).numpy()
    return mean + l2 / 2 * np.square(linear.weights.astype(np.float64)).sum()


@pytest.mark.parametrize("l2", [0.03, 0.001])
def test_with_smoothed_labels_and_class_weights_every_step_away_from_the_optimum_is_worse(l2):
    values, labels = make_data()
    setting = (0.1, [0.5, 1.0, 2.0])
    found = fit_linear(make_objective(values, labels, 3, *setting), l2, steps=300)
    least = loss_in_keras(values, labels, *setting, l2, found)
    random = np.random.default_rng(0)
    for size in (0.3, 0.1, 0.03):
        for _ in range(20):
            moved = Linear(*(part + size * random.normal(size=part.shape) for part in found))
            assert loss_in_keras(values, labels, *setting, l2, moved) > least
    for wrong in ((0.0, setting[1]), (setting[0], None)):
        other = fit_linear(make_objective(values, labels, 3, *wrong), l2, steps=300)
        assert loss_in_keras(values, labels, *setting, l2, other) > least + 1e-4


def test_the_start_changes_only_how_soon_the_optimum_is_reached():
    values, labels = make_data(seed=3)
    objective = make_objective(values, labels, 3, 0.0, None)
    cold = run_lbfgs(objective, 0.01, None, 300)
    nearby = run_lbfgs(objective, 0.03, None, 60)
    warm = run_lbfgs(objective, 0.01, nearby, 300)
    np.testing.assert_allclose(warm.weights, cold.weights, atol=5e-3)
    distances = [np.abs(run_lbfgs(objective, 0.01, start, 3).weights - cold.weights).max() for start in (None, nearby)]
    assert distances[1] < distances[0] / 2


@pytest.mark.parametrize("copies", [False, True])
def test_fewer_examples_than_dimensions_have_the_same_optimum_and_votes_as_in_all_dimensions(copies):
    random = np.random.default_rng(5)
    labels = np.arange(30) % 3
    values = (random.normal(size=(30, 80)) + labels[:, None] * random.normal(size=80)).astype(np.float32)
    if copies:
        values[15:] = values[:15]
    objective = make_objective(values, labels, 3, 0.0, None)
    within, whole = fit_linear(objective, 0.01, 300), run_lbfgs(objective, 0.01, None, 300)
    np.testing.assert_allclose(within.weights, whole.weights, atol=5e-3)
    np.testing.assert_allclose(within.biases, whole.biases, atol=0.1)  # nothing holds them firmly
    held_out = random.normal(size=(9, 80)).astype(np.float32)
    (fitted, others), basis = enter_span(objective, make_objective(held_out, labels[:9], 3, 0.0, None))
    assert basis is not None and basis.shape == (80, 30)
    inside = run_lbfgs(fitted, 0.01, None, 300)
    np.testing.assert_allclose(others.values @ inside.weights, held_out @ whole.weights, atol=0.05)


def choose_by_scikit_learn(pairs, class_weights=None):
    """Return the penalties among which the rule may choose by scikit-learn's models, and their losses."""
    weights = np.array(class_weights or [1, 1, 1])
    scores = [[], []]
    for l2 in L2_CANDIDATES:
        hits, losses = [], []
        for (values, labels), (held_out, actual) in pairs:
            model = LogisticRegression(C=1 / (l2 * len(labels)), tol=1e-7, max_iter=2000)
            model.fit(values, labels, weights[labels])
            hits.append((model.predict(held_out) == actual) * weights[actual])
            losses.append(-model.predict_log_proba(held_out)[np.arange(len(actual)), actual] * weights[actual])
        scores[0].append(np.concatenate(hits))
        scores[1].append(np.concatenate(losses).mean())
    hits, losses = map(np.array, scores)
    behind = hits[hits.mean(1).argmax()] - hits
    good = behind.mean(1) <= behind.std(1) / len(behind[0]) ** 0.5
    return {l2: loss for l2, loss, allowed in zip(L2_CANDIDATES, losses, good, strict=True) if allowed}


@pytest.mark.parametrize("class_weights", [None, [0.5, 1.0, 2.0]])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("folds", [False, True])
def test_the_penalty_has_the_lowest_loss_of_those_that_are_as_accurate_as_the_best_but_for_chance(
    seed, class_weights, folds
):
    values, labels = make_data(80, seed, 20, 1.3)
    pairs = [((values, labels), make_data(200, 100 + seed, 20, 1.3))]
    if folds:
        pairs = [tuple((values[rows], labels[rows]) for rows in pair) for pair in split_folds(labels)]
    chosen = choose_penalty([[make_objective(*part, 3, 0.0, class_weights) for part in pair] for pair in pairs])
    # A fit to choose is cut short, which may decide between two that are nearly equal.
    allowed = choose_by_scikit_learn(pairs, class_weights)
    assert allowed[chosen] <= min(allowed.values()) * 1.02


def test_held_out_images_count_by_the_weight_of_their_class():
    train, held_out = make_data(80, 5, 20, 1.3), make_data(200, 105, 20, 1.3)
    first = held_out[1] == 0
    fitted = make_objective(*train, 3, 0.0, None)
    weighted = score_penalties(fitted, make_objective(*held_out, 3, 0.0, [1.0, 0.0, 0.0]))
    alone = score_penalties(fitted, make_objective(held_out[0][first], held_out[1][first], 3, 0.0, None))
    np.testing.assert_allclose(weighted[..., first], alone)
    assert not weighted[..., ~first].any()


@given(st.lists(st.integers(0, 4), min_size=FOLDS, max_size=60))
def test_folds_cover_each_example_once_and_spread_every_class(labels):
    labels = np.array(labels)
    seen = []
    for fitted, held_out in split_folds(labels):
        assert sorted([*fitted, *held_out]) == list(range(len(labels)))
        counts = np.bincount(labels[held_out], minlength=5)
        assert (np.abs(counts - np.bincount(labels, minlength=5) / FOLDS) < 1).all()
        seen += held_out.tolist()
    assert sorted(seen) == list(range(len(labels)))
