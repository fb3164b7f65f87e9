import numpy as np
import pytest
from conftest import refusal
from sklearn.linear_model import LogisticRegression
from sklearn.utils.class_weight import compute_class_weight

from components.head_input import Vectors
from components.model import SIGMOID, SOFTMAX, Architecture, HiddenLayer
from components.start import BIASES, WEIGHTS
from components.train import Recipe, choose_epochs, plan_training, settle_output, weigh_classes


@pytest.mark.parametrize(
    "images, batch_size, epochs", [(1, 256, 100), (301, 256, 100), (5482, 256, 14), (18364, 256, 5), (10**6, 256, 4)]
)
def test_epochs_give_about_300_steps(images, batch_size, epochs):
    assert choose_epochs(images, Recipe(batch_size=batch_size)) == epochs


def test_epochs_and_steps_that_are_asked_for_are_made():
    assert choose_epochs(1000, Recipe(epochs=7)) == 7
    assert choose_epochs(1000, Recipe(steps=9, batch_size=250)) == 3


def test_balanced_weights_are_those_of_scikit_learn():
    labels = np.repeat([0, 1, 2], [5, 20, 75])
    weights = weigh_classes("balanced", np.bincount(labels), ["a", "b", "c"])
    np.testing.assert_allclose(weights, compute_class_weight("balanced", classes=np.arange(3), y=labels))
    assert np.mean(np.array(weights)[labels]) == pytest.approx(1)


def test_weights_by_name_keep_their_ratio_and_unknown_names_are_refused():
    weights = weigh_classes({"b": 3.0}, np.array([10, 10]), ["a", "b"])
    assert weights == pytest.approx([0.5, 1.5])
    assert "'x', which is no class" in refusal(weigh_classes, {"x": 1.0}, np.array([1, 1]), ["a", "b"])
    assert weigh_classes(None, np.array([1]), ["a"]) is None


def test_two_classes_get_a_single_output_unless_asked_otherwise():
    assert settle_output(Architecture(output="auto"), 2).output == SIGMOID
    assert settle_output(Architecture(output="auto"), 3).output == SOFTMAX
    assert settle_output(Architecture(output=SOFTMAX), 2).output == SOFTMAX
    assert "the data has 3" in refusal(settle_output, Architecture(output=SIGMOID), 3)


@pytest.mark.parametrize("output", [SIGMOID, SOFTMAX])
def test_l2_auto_starts_at_the_optimum_of_the_penalty_it_chose(tmp_path, output):
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 200)
    values = (np.eye(2, 6)[labels] + random.normal(0, 0.7, (200, 6))).astype(np.float32)
    architecture = Architecture(output=output, normalize="none")
    train = Vectors(values[:, None], labels)
    plan = plan_training(train, None, ["a", "b"], tmp_path / "l", architecture, Recipe(l2="auto"), {})
    l2 = plan.head.optimisation.l2
    # scikit-learn's two-class model has a single output; the soft-max shares its weights between two.
    strength = 1 / (len(labels) * (l2 if output == SIGMOID else l2 / 2))
    expected = LogisticRegression(C=strength, tol=1e-8, max_iter=1000).fit(values, labels)
    weights, biases = plan.start[WEIGHTS], plan.start[BIASES]
    if output == SOFTMAX:
        weights, biases = weights[:, 1:] - weights[:, :1], biases[1:] - biases[:1]
    np.testing.assert_allclose(weights[:, 0], expected.coef_[0], atol=0.02)
    np.testing.assert_allclose(biases, expected.intercept_, atol=0.02)


def test_l2_auto_is_refused_for_hidden_layers(tmp_path):
    train = Vectors(np.zeros((4, 1, 3), np.float32), np.array([0, 1, 0, 1]))
    architecture = Architecture((HiddenLayer(2, "relu"),))
    words = refusal(plan_training, train, None, ["a", "b"], tmp_path, architecture, Recipe(l2="auto"), {})
    assert "a linear head only" in words
