import numpy as np
import pytest
import tensorflow as tf

from components.optimisation import Optimisation, Schedule, add_train_step, schedule_rate, weigh_examples

v1 = tf.compat.v1


def rates(schedule, steps, count):
    with tf.Graph().as_default(), v1.Session() as session:
        step = v1.placeholder(tf.int64, [])
        share = schedule_rate(schedule, steps, step)
        return np.array([session.run(share, {step: number}) for number in range(count)])


def test_schedules_follow_their_formulas():
    number = np.arange(40)
    np.testing.assert_allclose(rates(Schedule("constant"), 40, 40), 1)
    np.testing.assert_allclose(
        rates(Schedule("exponential", decay=0.9, decay_steps=5), 40, 40), 0.9 ** (number / 5), rtol=1e-5
    )
    np.testing.assert_allclose(rates(Schedule(), 40, 40), 0.5 * (1 + np.cos(np.pi * number / 40)), atol=1e-6)
    warm = rates(Schedule(warmup=4), 40, 40)
    np.testing.assert_allclose(warm[:4], [0.25, 0.5, 0.75, 1])
    assert warm[4] == pytest.approx(1) and warm[-1] < 0.01


def test_label_smoothing_and_class_weights_are_those_of_keras():
    random = np.random.default_rng(0)
    logits, labels = random.normal(size=(20, 3)).astype(np.float32), random.integers(0, 3, 20)
    weights = [0.5, 1.0, 2.0]
    with tf.Graph().as_default(), v1.Session() as session:
        found = session.run(weigh_examples(tf.constant(logits), tf.constant(labels), 0.1, weights))
    loss = tf.keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1, reduction="none")
    expected = np.mean(loss(np.eye(3)[labels], logits).numpy() * np.array(weights)[labels])
    assert found == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam", "adamw"])
def test_optimisers_move_as_keras_ones_do(optimizer):
    random = np.random.default_rng(0)
    vectors, labels = random.normal(size=(20, 4)).astype(np.float32), random.integers(0, 3, 20)
    first = random.normal(size=(4, 3)).astype(np.float32)
    l2 = 0.1
    with tf.Graph().as_default(), v1.Session() as session:
        weights = v1.get_variable("head/weights", initializer=first)
        optimisation = Optimisation(9, 0.05, l2, optimizer, schedule=Schedule("constant"))
        _, step = add_train_step(tf.matmul(vectors, weights), tf.constant(labels), weights, optimisation)
        session.run(v1.global_variables_initializer())
        for _ in range(5):
            session.run(step)
        found, steps = session.run([weights, v1.train.get_global_step()])
    kinds = {
        "sgd": tf.keras.optimizers.legacy.SGD(0.05),
        "momentum": tf.keras.optimizers.legacy.SGD(0.05, 0.9),
        "adam": tf.keras.optimizers.legacy.Adam(0.05, epsilon=1e-8),
        "adamw": tf.keras.optimizers.legacy.Adam(0.05, epsilon=1e-8),
    }
    expected = tf.Variable(first)
    for _ in range(5):
        with tf.GradientTape() as tape:
            each = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, tf.matmul(vectors, expected))
            loss = tf.reduce_mean(each) + (0 if optimizer == "adamw" else l2) * tf.nn.l2_loss(expected)
        kinds[optimizer].apply_gradients([(tape.gradient(loss, expected), expected)])
        if optimizer == "adamw":
            expected.assign_sub(0.05 * l2 * expected)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)
    assert steps == 5


def test_variables_outside_the_head_move_at_their_own_rate():
    with tf.Graph().as_default(), v1.Session() as session:
        trunk = v1.get_variable("backbone/w", initializer=np.ones((2, 2), np.float32))
        weights = v1.get_variable("head/weights", initializer=np.eye(2, dtype=np.float32))
        logits = tf.matmul(tf.matmul([[1.0, 2.0]], trunk), weights)
        optimisation = Optimisation(9, 0.1, 0.0, "sgd", schedule=Schedule("constant"), backbone_rate=0.01)
        _, step = add_train_step(logits, tf.constant([0]), weights, optimisation)
        session.run(v1.global_variables_initializer())
        session.run(step)
        moved_trunk, moved_head = session.run([trunk, weights])
    # The gradient of the logits is (-0.5, 0.5) at the start, as both are 3.
    np.testing.assert_allclose(moved_trunk, 1 - 0.01 * np.outer([1, 2], [-0.5, 0.5]), atol=1e-6)
    np.testing.assert_allclose(moved_head, np.eye(2) - 0.1 * np.outer([3, 3], [-0.5, 0.5]), atol=1e-6)
