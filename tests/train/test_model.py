import numpy as np
import pytest
import tensorflow as tf
from sklearn.metrics import accuracy_score, log_loss
from sklearn.preprocessing import StandardScaler, normalize

from components.train.model import (
    L2,
    STANDARDIZE,
    HeadParams,
    add_evaluation_step,
    add_final_training_ops,
    model_fn,
)
from components.train.optimization import Optimization, add_train_step
from components.train.settings import SIGMOID, Architecture, HiddenLayer, Schedule

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
            tf.constant(vectors), tf.constant(labels), 3, Architecture(normalize="l2"), True
        )
        values = run([logits, cross_entropy])
    assert not values[0].any()
    assert values[1] == pytest.approx(np.log(3))


def test_variables_have_the_names_of_the_workshop_with_a_scope_per_hidden_layer(data):
    architecture = Architecture((HiddenLayer(7, "relu"), HiddenLayer(4, "tanh")), normalize="l2")
    with tf.Graph().as_default() as graph:
        add_final_training_ops(tf.constant(data[0]), None, 3, architecture, False)
        names = [variable.op.name for variable in v1.global_variables()]
        assert graph.get_tensor_by_name("final_training_ops/logits:0").shape == (50, 3)
    layers = ["hidden0/", "hidden1/", ""]
    assert names == [f"final_training_ops/{layer}{part}" for layer in layers for part in ("weights", "biases")]


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
        logits, _ = add_final_training_ops(
            tf.constant(vectors), tf.constant(labels), 3, Architecture(normalize="l2"), True
        )
        weights = v1.trainable_variables()[0]
        loss, step = add_train_step(logits, tf.constant(labels), weights, Optimization(500, 0.1, l2))
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
    head = HeadParams(3, str(tmp_path / "labels.txt"), Architecture(normalize="l2"), abstention_threshold=threshold)
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


def predict(tmp_path, vectors, architecture, classes, values, threshold=None):
    """Return the predictions of a head whose variables hold the values."""
    (tmp_path / "labels.txt").write_text("".join(f"class {number}\n" for number in range(classes)))
    head = HeadParams(classes, str(tmp_path / "labels.txt"), architecture, abstention_threshold=threshold)
    with tf.Graph().as_default(), v1.Session() as session:
        spec = model_fn({"bottleneck": tf.constant(vectors)}, None, "infer", {"head": head})
        session.run([v1.global_variables_initializer(), v1.tables_initializer()])
        for variable in v1.global_variables():
            variable.load(values[variable.op.name.partition("/")[2]], session)
        assert set(spec.export_outputs["serving_default"].outputs) == set(spec.predictions)
        return session.run(spec.predictions)


def test_exactly_the_predictions_below_the_threshold_are_abstained_from(data, tmp_path):
    values = {"weights": np.random.default_rng(1).normal(size=(6, 3)), "biases": np.zeros(3)}
    highest = predict(tmp_path, data[0], Architecture(normalize="l2"), 3, values)["probabilities"].max(1)
    threshold = float(np.sort(highest)[20])  # that prediction itself is not below it
    predictions = predict(tmp_path, data[0], Architecture(normalize="l2"), 3, values, threshold)
    assert predictions["abstained"].tolist() == (highest < np.float32(threshold)).tolist()
    assert predictions["abstained"].sum() == 20
    np.testing.assert_array_equal(predictions["probabilities"].max(1), highest)
    assert predict(tmp_path, data[0], Architecture(normalize="l2"), 3, values, 2.0)["abstained"].all()


def test_a_single_output_predicts_two_classes(data, tmp_path):
    architecture = Architecture(output=SIGMOID, normalize="none")
    values = {"weights": np.linspace(-1, 1, 6)[:, None], "biases": np.array([0.3])}
    predictions = predict(tmp_path, data[0], architecture, 2, values)
    second = 1 / (1 + np.exp(-(data[0] @ values["weights"] + values["biases"])))
    np.testing.assert_allclose(predictions["probabilities"], np.hstack([1 - second, second]), atol=1e-6)
    assert predictions["index"].tolist() == (second[:, 0] > 0.5).astype(int).tolist()
    assert predictions["label"].tolist() == [f"class {index}".encode() for index in predictions["index"]]


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


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_training_drops_a_share_of_a_layers_outputs_and_scales_the_others_up(rate):
    units = 300
    architecture = Architecture((HiddenLayer(units, "linear", rate),), normalize="none")
    with tf.Graph().as_default(), v1.Session() as session:
        logits, _ = add_final_training_ops(tf.ones([5, 1]), None, units, architecture, True)
        for variable in v1.global_variables():  # every hidden value is 1, and logits are the hidden values
            shape = variable.shape.as_list()
            variable.load(np.eye(units) if shape == [units, units] else np.full(shape, float(len(shape) == 2)), session)
        values = session.run(logits)
    kept = values != 0
    assert kept.mean() == pytest.approx(1 - rate, abs=0.05 if rate else 0)
    np.testing.assert_allclose(values[kept], 1 / (1 - rate), rtol=1e-5)
    assert not rate or len({tuple(row) for row in kept.tolist()}) == 5


@pytest.mark.parametrize("l2", [0.0, 0.3])
@pytest.mark.parametrize("output", ["softmax", SIGMOID])
def test_a_head_with_hidden_layers_trains_as_in_keras_with_its_penalties(data, tmp_path, output, l2):
    vectors, _ = data
    labels, classes = (np.arange(50) % 2, 2) if output == SIGMOID else (data[1], 3)
    layers = (HiddenLayer(7, "relu", l2=l2), HiddenLayer(4, "tanh", l2=2 * l2))
    optimization = Optimization(9, 0.1, 0.05, "sgd", schedule=Schedule("constant"))
    head = HeadParams(classes, str(tmp_path / "l"), Architecture(layers, output, "none"), optimization)
    with tf.Graph().as_default(), v1.Session() as session:
        v1.set_random_seed(1)
        features = {"bottleneck": tf.constant(vectors)}
        spec = model_fn(features, tf.constant(labels), tf.estimator.ModeKeys.TRAIN, {"head": head})
        session.run([v1.global_variables_initializer(), v1.local_variables_initializer()])
        first, loss = session.run([v1.trainable_variables(), spec.loss])
        for _ in range(3):
            session.run(spec.train_op)
        found = session.run(v1.trainable_variables())
    # Keras' penalty is L2 times the sum of squares, tf.nn.l2_loss halves it.
    kinds = [(7, "relu", l2), (4, "tanh", 2 * l2), (1 if output == SIGMOID else 3, None, 0.05)]
    dense = [
        tf.keras.layers.Dense(units, kind, kernel_regularizer=tf.keras.regularizers.L2(weight / 2))
        for units, kind, weight in kinds
    ]
    model = tf.keras.Sequential([tf.keras.Input([6]), *dense])
    model.set_weights(first)
    losses = tf.keras.losses
    kind = losses.BinaryCrossentropy if output == SIGMOID else losses.SparseCategoricalCrossentropy
    model.compile(tf.keras.optimizers.SGD(0.1), kind(from_logits=True))
    assert loss == pytest.approx(model.evaluate(vectors, labels, 50, verbose=0), rel=1e-5)
    model.fit(vectors, labels, 50, 3, shuffle=False, verbose=0)
    for one, other in zip(found, model.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_evaluation_measures_the_cross_entropy_without_penalties(data, tmp_path):
    vectors, labels = data
    head = HeadParams(3, str(tmp_path / "l"), Architecture((HiddenLayer(7, "relu", 0.5, 0.3),), normalize="l2"))
    with tf.Graph().as_default(), v1.Session() as session:
        features = {"bottleneck": tf.constant(vectors)}
        spec = model_fn(features, tf.constant(labels), tf.estimator.ModeKeys.EVAL, {"head": head})
        logits = v1.get_default_graph().get_tensor_by_name("final_training_ops/logits:0")
        session.run(v1.global_variables_initializer())
        loss, values = session.run([spec.loss, logits])
        assert loss == session.run(spec.loss)  # nothing is dropped at random
    assert loss == pytest.approx(log_loss(labels, tf.nn.softmax(values.astype(np.float64)).numpy()), abs=1e-5)
    assert spec.train_op is None


def scaled_by(vectors, kind, values=None):
    """Return what the output layer sees of bottlenecks: logits of a head whose weights are one and biases zero."""
    dim = vectors.shape[1]
    values = {"weights": np.eye(dim), "biases": np.zeros(dim), **(values or {})}
    with tf.Graph().as_default(), v1.Session() as session:
        logits, _ = add_final_training_ops(tf.constant(vectors), None, dim, Architecture(normalize=kind), False)
        assert [variable.op.name for variable in v1.trainable_variables()] == [
            "final_training_ops/weights",
            "final_training_ops/biases",
        ]
        for variable in v1.global_variables():
            variable.load(values[variable.op.name.partition("/")[2]], session)
        return session.run(logits)


def test_bottlenecks_are_scaled_to_the_length_of_ones(data):
    vectors = np.vstack([data[0], np.zeros(6, np.float32)])
    np.testing.assert_allclose(scaled_by(vectors, L2), normalize(vectors) * np.sqrt(6), atol=1e-5)


def test_standardised_bottlenecks_use_the_mean_and_scale_that_were_set(data):
    scaler = StandardScaler().fit(data[0][:30])
    values = {"mean": scaler.mean_, "scale": 1 / scaler.scale_}
    np.testing.assert_allclose(scaled_by(data[0], STANDARDIZE, values), scaler.transform(data[0]), atol=1e-5)


def test_bottlenecks_can_be_left_as_they_are(data):
    np.testing.assert_allclose(scaled_by(data[0], "none"), data[0], atol=1e-6)
