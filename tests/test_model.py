import numpy as np
import pytest
import tensorflow as tf
from sklearn.metrics import accuracy_score, log_loss

from components.model import (
    SIGMOID,
    STANDARDIZE,
    Architecture,
    HeadParams,
    HiddenLayer,
    add_evaluation_step,
    add_final_training_ops,
    model_fn,
)
from components.optimisation import Optimisation, add_train_step

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
        logits, cross_entropy = add_final_training_ops(
            tf.constant(vectors), tf.constant(labels), 3, Architecture(), True
        )
        values = run([logits, cross_entropy])
    assert not values[0].any()
    assert values[1] == pytest.approx(np.log(3))


def test_names_and_summaries_are_those_of_the_workshop(data):
    vectors, labels = data
    with tf.Graph().as_default() as graph:
        logits, _ = add_final_training_ops(tf.constant(vectors), tf.constant(labels), 3, Architecture(), True)
        add_train_step(logits, tf.constant(labels), v1.trainable_variables()[0], Optimisation(10, 0.1, 0.0))
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
        logits, _ = add_final_training_ops(tf.constant(vectors), tf.constant(labels), 3, Architecture(), True)
        weights = v1.trainable_variables()[0]
        loss, step = add_train_step(logits, tf.constant(labels), weights, Optimisation(500, 0.1, l2))
        session.run(v1.global_variables_initializer())
        for _ in range(500):
            session.run(step)
        reached = session.run(loss)
    scaled = vectors / np.linalg.norm(vectors, axis=1, keepdims=True) * np.sqrt(6)
    model = LogisticRegression(C=1 / (l2 * len(labels)), max_iter=1000, tol=1e-8).fit(scaled, labels)
    optimum = log_loss(labels, model.predict_proba(scaled)) + l2 / 2 * (model.coef_**2).sum()
    assert reached == pytest.approx(optimum, abs=1e-3)


@pytest.mark.parametrize("threshold", [None, 0.6])
def test_predictions_carry_index_label_and_probabilities_and_abstain_below_a_threshold(tmp_path, threshold):
    (tmp_path / "labels.txt").write_text("a b\nc\nd\n")
    head = HeadParams(3, str(tmp_path / "labels.txt"), Architecture(), abstention_threshold=threshold)
    with tf.Graph().as_default(), v1.Session() as session:
        spec = model_fn({"bottleneck": tf.constant([[1.0, 0.0], [0.0, 1.0]])}, None, "infer", {"head": head})
        session.run([v1.global_variables_initializer(), v1.tables_initializer()])
        weights = v1.trainable_variables()[0]
        session.run(weights.assign([[0.0, 0.0, 1.0], [0.0, 0.5, 0.0]]))
        predictions = session.run(spec.predictions)
    assert predictions["index"].tolist() == [2, 1]
    assert predictions["label"].tolist() == [b"d", b"c"]
    np.testing.assert_allclose(predictions["probabilities"].sum(1), 1, atol=1e-6)
    if threshold is None:
        assert "abstained" not in predictions
    else:
        assert predictions["abstained"].tolist() == (predictions["probabilities"].max(1) < threshold).tolist()
        assert sorted(predictions["abstained"].tolist()) == [False, True]


def test_hidden_layers_compute_what_keras_computes_and_drop_only_in_training(data):
    vectors, labels = data
    layers = (HiddenLayer(7, "relu", 0.5), HiddenLayer(4, "tanh"))
    architecture = Architecture(layers, normalize="none")
    with tf.Graph().as_default(), v1.Session() as session:
        plain, _ = add_final_training_ops(tf.constant(vectors), None, 3, architecture, False)
        with v1.variable_scope("", reuse=True):
            trained, _ = add_final_training_ops(tf.constant(vectors), None, 3, architecture, True)
        session.run(v1.global_variables_initializer())
        values, dropped, weights = session.run([plain, trained, v1.trainable_variables()])
    kinds = [("relu", 7), ("tanh", 4), (None, 3)]
    model = tf.keras.Sequential([tf.keras.Input([6]), *(tf.keras.layers.Dense(n, kind) for kind, n in kinds)])
    model.set_weights(weights)
    np.testing.assert_allclose(values, model(vectors).numpy(), atol=1e-5)
    assert not np.allclose(values, dropped, atol=1e-3)


def test_a_sigmoid_output_has_keras_binary_cross_entropy(data):
    vectors, _ = data
    labels = np.arange(50) % 2
    with tf.Graph().as_default(), v1.Session() as session:
        architecture = Architecture(output=SIGMOID, normalize="none")
        logits, loss = add_final_training_ops(tf.constant(vectors), tf.constant(labels), 2, architecture, True)
        weights, _ = v1.trainable_variables()
        assert weights.shape == (6, 1)
        session.run(v1.global_variables_initializer())
        session.run(weights.assign(np.linspace(-1, 1, 6, dtype=np.float32)[:, None]))
        probabilities, found = session.run([tf.nn.softmax(logits)[:, 1], loss])
    expected = 1 / (1 + np.exp(-vectors @ np.linspace(-1, 1, 6)))
    np.testing.assert_allclose(probabilities, expected, atol=1e-5)
    assert found == pytest.approx(float(tf.keras.losses.binary_crossentropy(labels, expected)), abs=1e-5)


def test_standardised_bottlenecks_use_the_mean_and_scale_that_were_set(data):
    vectors, _ = data
    with tf.Graph().as_default() as graph, v1.Session() as session:
        add_final_training_ops(tf.constant(vectors), None, 3, Architecture(normalize=STANDARDIZE), False)
        names = [variable.name for variable in v1.trainable_variables()]
        session.run(v1.global_variables_initializer())
        shift = graph.get_tensor_by_name("final_training_ops/sub:0")
        mean = next(v for v in v1.global_variables() if v.name.endswith("/mean:0"))
        session.run(mean.assign(np.ones(6, np.float32)))
        np.testing.assert_allclose(session.run(shift), vectors - 1, atol=1e-6)
    assert names == ["final_training_ops/weights:0", "final_training_ops/biases:0"]
