import numpy as np
import pytest
import tensorflow as tf
from sklearn.metrics import accuracy_score, log_loss

from components.model import Optimisation, add_evaluation_step, add_final_training_ops, add_train_step, model_fn

v1 = tf.compat.v1


@pytest.fixture
def data():
    random = np.random.default_rng(0)
    return random.normal(size=(50, 6)).astype(np.float32), random.integers(0, 3, 50)


def run(fetches, feeds=None):
    with v1.Session() as session:
        session.run([v1.global_variables_initializer(), v1.local_variables_initializer()])
        return session.run(fetches, feeds)


def test_the_start_is_the_uniform_prediction(data):
    vectors, labels = data
    with tf.Graph().as_default():
        logits, cross_entropy = add_final_training_ops(tf.constant(vectors), tf.constant(labels), 3)
        values = run([logits, cross_entropy])
    assert not values[0].any()
    assert values[1] == pytest.approx(np.log(3))


def test_names_and_summaries_are_those_of_the_workshop(data):
    vectors, labels = data
    with tf.Graph().as_default() as graph:
        _, cross_entropy = add_final_training_ops(tf.constant(vectors), tf.constant(labels), 3)
        add_train_step(cross_entropy, Optimisation(10, 0.1, 0.0))
        names = {operation.name for operation in graph.get_operations()}
        tags = {run(summary.inputs[0]).decode() for summary in [s.op for s in v1.get_collection("summaries")]}
    assert {"final_training_ops/weights", "final_training_ops/biases", "final_training_ops/logits"} <= names
    for part in ("weights", "biases", "pre_activations"):
        assert any(f"{part}_summaries" in tag and "histogram" in tag for tag in tags), (part, tags)
    assert any("cross_entropy" in tag for tag in tags)


def test_evaluation_agrees_with_scikit_learn_over_uneven_batches(data):
    _, labels = data
    logits = np.random.default_rng(1).normal(size=(50, 3)).astype(np.float32)
    with tf.Graph().as_default(), v1.Session() as session:
        logits_in, labels_in = v1.placeholder(tf.float32, [None, 3]), v1.placeholder(tf.int64, [None])
        metrics = add_evaluation_step(logits_in, labels_in)
        session.run(v1.local_variables_initializer())
        for rows in (slice(0, 32), slice(32, 50)):
            session.run([update for _, update in metrics.values()], {logits_in: logits[rows], labels_in: labels[rows]})
        values = session.run({name: value for name, (value, _) in metrics.items()})
    probabilities = tf.nn.softmax(logits).numpy().astype(np.float64)
    assert values["accuracy"] == pytest.approx(accuracy_score(labels, logits.argmax(1)))
    assert values["cross_entropy"] == pytest.approx(
        log_loss(labels, probabilities / probabilities.sum(1, keepdims=True)), abs=1e-5
    )


def test_training_falls_to_the_optimum_that_scikit_learn_finds(data):
    from sklearn.linear_model import LogisticRegression

    vectors, labels = data
    l2 = 0.1
    with tf.Graph().as_default(), v1.Session() as session:
        _, cross_entropy = add_final_training_ops(tf.constant(vectors), tf.constant(labels), 3)
        loss, step = add_train_step(cross_entropy, Optimisation(500, 0.1, l2))
        session.run(v1.global_variables_initializer())
        for _ in range(500):
            session.run(step)
        reached = session.run(loss)
    scaled = vectors / np.linalg.norm(vectors, axis=1, keepdims=True) * np.sqrt(6)
    model = LogisticRegression(C=1 / (l2 * len(labels)), max_iter=1000, tol=1e-8).fit(scaled, labels)
    optimum = log_loss(labels, model.predict_proba(scaled)) + l2 / 2 * (model.coef_**2).sum()
    assert reached == pytest.approx(optimum, abs=1e-3)


def test_predictions_carry_index_label_and_probabilities(tmp_path):
    (tmp_path / "labels.txt").write_text("a b\nc\nd\n")
    params = {"classes": 3, "labels_file": str(tmp_path / "labels.txt")}
    with tf.Graph().as_default(), v1.Session() as session:
        spec = model_fn({"bottleneck": tf.constant([[1.0, 0.0], [0.0, 1.0]])}, None, "infer", params)
        session.run([v1.global_variables_initializer(), v1.tables_initializer()])
        weights = v1.trainable_variables()[0]
        session.run(weights.assign([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0]]))
        predictions = session.run(spec.predictions)
    assert predictions["index"].tolist() == [2, 1]
    assert predictions["label"].tolist() == [b"d", b"c"]
    np.testing.assert_allclose(predictions["probabilities"].sum(1), 1, atol=1e-6)
