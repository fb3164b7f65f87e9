import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from components.train.optimization import Optimization, add_train_step, schedule_rate, weigh_examples
from components.train.settings import Schedule

v1 = tf.compat.v1


def rates(schedule, steps, numbers):
    return np.array([schedule_rate(schedule, steps, tf.constant(int(number))).numpy() for number in numbers])


def test_a_constant_rate_is_the_first_one():
    np.testing.assert_array_equal(rates(Schedule("constant"), 40, range(80)), 1)


@pytest.mark.parametrize("decay, decay_steps", [(0.9, 500), (0.96, 1000), (0.9, 5)])
def test_an_exponential_rate_is_keras(decay, decay_steps):
    numbers = np.arange(0, 5001, 250)
    found = rates(Schedule("exponential", decay=decay, decay_steps=decay_steps), 40, numbers)
    keras = tf.keras.optimizers.schedules.ExponentialDecay(1.0, decay_steps, decay)
    np.testing.assert_allclose(found, [keras(number).numpy() for number in numbers], rtol=1e-5)
    np.testing.assert_allclose(found, decay ** (numbers / decay_steps), rtol=1e-4, atol=1e-30)
    assert schedule_rate(Schedule("exponential"), 40, tf.constant(500)).numpy() == pytest.approx(0.9)


def test_a_cosine_rate_is_keras():
    found = rates(Schedule(), 40, range(45))
    keras = tf.keras.optimizers.schedules.CosineDecay(1.0, 40)
    np.testing.assert_allclose(found, [keras(number).numpy() for number in range(45)], atol=1e-6)
    assert found[20] == pytest.approx(0.5) and found[40] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("kind", ["constant", "exponential", "cosine"])
def test_warm_up_rises_in_equal_steps_to_the_rate_that_then_falls(kind):
    warm = rates(Schedule(kind, 4, 0.9, 5) if kind == "exponential" else Schedule(kind, 4), 44, range(44))
    plain = rates(Schedule(kind, 0, 0.9, 5) if kind == "exponential" else Schedule(kind), 40, range(40))
    np.testing.assert_allclose(warm[:4], [0.25, 0.5, 0.75, 1], rtol=1e-6)
    np.testing.assert_allclose(warm[4:], plain, rtol=1e-5, atol=1e-7)


@given(st.sampled_from(["constant", "exponential", "cosine"]), st.integers(0, 12), st.integers(1, 40))
def test_no_schedule_leaves_the_rates_from_0_to_the_first_or_rises_after_warm_up(kind, warmup, steps):
    found = rates(Schedule(kind, warmup), steps, range(steps))
    assert (found >= 0).all() and (found <= 1).all()
    assert (np.diff(found[warmup:]) <= 1e-6).all()
    assert (np.diff(found[:warmup]) > 0).all()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, [0.5, 1.0, 2.0]])
def test_label_smoothing_and_class_weights_are_those_of_keras(smoothing, weights):
    random = np.random.default_rng(0)
    logits, labels = random.normal(size=(20, 3)).astype(np.float32), random.integers(0, 3, 20)
    found = weigh_examples(tf.constant(logits), tf.constant(labels), smoothing, weights).numpy()
    loss = tf.keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=smoothing)
    sample_weight = None if weights is None else np.array(weights)[labels]
    expected = loss(np.eye(3)[labels], logits, sample_weight).numpy()
    assert found == pytest.approx(expected, abs=1e-5)


def test_a_class_that_weighs_nothing_moves_nothing():
    with tf.Graph().as_default(), v1.Session() as session:
        weights = v1.get_variable("head/weights", initializer=np.eye(3, dtype=np.float32))
        optimization = Optimization(9, 0.1, 0.0, "sgd", class_weights=[0.0, 1.0, 1.0])
        _, step = add_train_step(tf.matmul(tf.ones([4, 3]), weights), tf.zeros([4], tf.int64), weights, optimization)
        session.run(v1.global_variables_initializer())
        session.run(step)
        np.testing.assert_array_equal(session.run(weights), np.eye(3))


OPTIMIZERS = ["sgd", "momentum", "adam", "adamw"]
SCHEDULES = {
    "constant": (Schedule("constant"), 0.05),
    "exponential": (
        Schedule("exponential", decay=0.5, decay_steps=4),
        tf.keras.optimizers.schedules.ExponentialDecay(0.05, 4, 0.5),
    ),
    "cosine": (Schedule(), tf.keras.optimizers.schedules.CosineDecay(0.05, 6)),
}


class Momentum:
    """Sums gradients and moves by the rate times the sum; Keras sums them times their rates."""

    def __init__(self, rate):
        self._rate = rate
        self._sums = [0.0, 0.0]
        self._step = 0

    def apply_gradients(self, pairs):
        for number, (gradient, variable) in enumerate(pairs):
            self._sums[number] = 0.9 * self._sums[number] + gradient
            variable.assign_sub(
                (self._rate if isinstance(self._rate, float) else self._rate(self._step)) * self._sums[number]
            )
        self._step += 1


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_optimisers_move_as_keras_ones_do(optimizer, schedule):
    random = np.random.default_rng(0)
    vectors, labels = random.normal(size=(20, 4)).astype(np.float32), random.integers(0, 3, 20)
    first = random.normal(size=(4, 3)).astype(np.float32)
    l2, (ours, theirs) = 0.1, SCHEDULES[schedule]
    with tf.Graph().as_default(), v1.Session() as session:
        weights = v1.get_variable("head/weights", initializer=first)
        biases = v1.get_variable("head/biases", initializer=np.zeros(3, np.float32))
        optimization = Optimization(6, 0.05, l2, optimizer, schedule=ours)
        logits = tf.matmul(vectors, weights) + biases
        _, step = add_train_step(logits, tf.constant(labels), weights, optimization)
        session.run(v1.global_variables_initializer())
        for _ in range(5):
            session.run(step)
        found = session.run([weights, biases])
    optimizers = tf.keras.optimizers
    kinds = {
        "sgd": lambda: optimizers.SGD(theirs),
        "momentum": lambda: Momentum(theirs),
        "adam": lambda: optimizers.Adam(theirs, epsilon=1e-8),
        "adamw": lambda: optimizers.AdamW(theirs, weight_decay=l2, epsilon=1e-8),
    }
    moves = kinds[optimizer]()
    expected = [tf.Variable(first, name="weights"), tf.Variable(tf.zeros(3), name="biases")]
    if optimizer == "adamw":
        moves.exclude_from_weight_decay(var_names=["biases"])
    for _ in range(5):
        with tf.GradientTape() as tape:
            each = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, vectors @ expected[0] + expected[1])
            loss = tf.reduce_mean(each) + (0 if optimizer == "adamw" else l2) * tf.nn.l2_loss(expected[0])
        moves.apply_gradients(zip(tape.gradient(loss, expected), expected, strict=True))
    # AdamW's decay comes before the step in Keras and after it here, which is 0.05 * 0.1 of a step.
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other.numpy(), atol=2e-3 if optimizer == "adamw" else 1e-5)


def test_momentum_at_a_constant_rate_is_keras():
    found, expected = tf.Variable([1.0, -2.0]), tf.Variable([1.0, -2.0])
    ours, theirs = Momentum(0.1), tf.keras.optimizers.SGD(0.1, 0.9)
    for _ in range(5):
        ours.apply_gradients([(2 * found, found)])
        theirs.apply_gradients([(2 * expected, expected)])
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-5)


def move_backbone(optimizer, backbone_rate, count=1):
    """Train a linear map below a head; return it, the head's weights and the global step."""
    with tf.Graph().as_default(), v1.Session() as session:
        trunk = v1.get_variable("backbone/w", initializer=np.ones((2, 2), np.float32))
        weights = v1.get_variable("head/weights", initializer=np.eye(2, dtype=np.float32))
        logits = tf.matmul(tf.matmul([[1.0, 2.0]], trunk), weights)
        optimization = Optimization(9, 0.1, 0.0, optimizer, schedule=Schedule("constant"), backbone_rate=backbone_rate)
        _, step = add_train_step(logits, tf.constant([0]), weights, optimization)
        session.run(v1.global_variables_initializer())
        for _ in range(count):
            session.run(step)
        return session.run([trunk, weights, v1.train.get_global_step()])


def test_variables_outside_the_head_move_at_their_own_rate():
    trunk, head, _ = move_backbone("sgd", 0.01)
    # The gradient of the logits is (-0.5, 0.5) at the start, as both are 3.
    np.testing.assert_allclose(trunk, 1 - 0.01 * np.outer([1, 2], [-0.5, 0.5]), atol=1e-6)
    np.testing.assert_allclose(head, np.eye(2) - 0.1 * np.outer([3, 3], [-0.5, 0.5]), atol=1e-6)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_rate_of_0_leaves_the_backbone_as_it_is_and_every_step_counts_once(optimizer):
    trunk, head, steps = move_backbone(optimizer, 0.0, count=3)
    np.testing.assert_array_equal(trunk, 1)
    assert (head != np.eye(2)).all()
    assert steps == 3


def test_adam_moves_every_variable_by_its_rate_in_the_first_step():
    trunk, head, _ = move_backbone("adam", 0.01)
    np.testing.assert_allclose(np.abs(trunk - 1), 0.01, rtol=1e-4)
    np.testing.assert_allclose(np.abs(head - np.eye(2)), 0.1, rtol=1e-4)


def test_the_loss_is_that_before_the_step_with_its_penalty():
    weights_before = np.array([[1.0, 2.0], [3.0, -1.0]], np.float32)
    with tf.Graph().as_default(), v1.Session() as session:
        weights = v1.get_variable("head/weights", initializer=weights_before)
        loss, step = add_train_step(
            tf.matmul(tf.eye(2), weights), tf.constant([1, 1]), weights, Optimization(9, 0.1, 0.2, "sgd")
        )
        session.run(v1.global_variables_initializer())
        found, _ = session.run([loss, step])
    each = tf.nn.sparse_softmax_cross_entropy_with_logits([1, 1], weights_before).numpy()
    assert found == pytest.approx(each.mean() + 0.1 * (weights_before**2).sum(), rel=1e-5)
