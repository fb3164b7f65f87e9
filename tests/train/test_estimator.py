import numpy as np
import pytest
import tensorflow as tf
from sklearn.metrics import accuracy_score, log_loss
from toys import refusal

from components.shards.bottlenecks import Vectors
from components.train.estimator import Epoch, HeadClassifier, RepeatedEvaluation, epoch_rank
from components.train.inputs import evaluate_from_memory, train_from_memory
from components.train.model import STANDARDIZE, HeadParams
from components.train.optimization import Optimization
from components.train.settings import SIGMOID, Architecture, HiddenLayer


def make_vectors(count, seed):
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, count)
    return (np.eye(3, 5)[labels] * 2 + random.normal(0, 1, (count, 5))).astype(np.float32), labels


@pytest.fixture
def fit(tmp_path, progress):
    """Return a function that trains, and gives (classifier, history, validation batches' input_fn, their labels)."""
    (tmp_path / "labels.txt").write_text("a\nb\nc\n")

    def run(
        name="model",
        seed=0,
        epochs=5,
        rate=0.05,
        hidden=(),
        normalize="l2",
        start=None,
        patience=None,
        held_out=True,
        steps=None,
    ):
        vectors, labels = make_vectors(100, 1)
        train = train_from_memory(Vectors(vectors[:, None], labels), epochs, 16, seed)
        vectors, labels = make_vectors(50, 2)
        val = evaluate_from_memory(vectors, labels)
        optimization = Optimization(steps=steps or epochs * 7, learning_rate=rate, l2=1e-3)
        head = HeadParams(3, str(tmp_path / "labels.txt"), Architecture(hidden, normalize=normalize), optimization)
        classifier = HeadClassifier(tmp_path / name, head, seed)
        history = classifier.fit(train, val if held_out else None, epochs, progress, start, patience)
        return classifier, history, val.input_fn, labels

    return run


def test_fit_evaluate_and_predict_agree_with_scikit_learn(fit):
    classifier, history, val, labels = fit()
    assert [epoch.epoch for epoch in history] == [1, 2, 3, 4, 5]
    metrics = classifier.evaluate(val)
    predictions = list(classifier.predict(val))
    index = [prediction["index"] for prediction in predictions]
    probabilities = np.array([prediction["probabilities"] for prediction in predictions], np.float64)
    assert metrics["accuracy"] == pytest.approx(accuracy_score(labels, index))
    assert metrics["cross_entropy"] == pytest.approx(
        log_loss(labels, probabilities / probabilities.sum(1, keepdims=True)), abs=1e-5
    )
    assert predictions[0]["label"] in (b"a", b"b", b"c")
    assert metrics["accuracy"] > 0.6


def test_the_checkpoint_kept_is_the_best_epoch_by_validation(fit):
    classifier, history, val, _ = fit(rate=1.0)
    best = max(history, key=epoch_rank)
    metrics = classifier.evaluate(val)
    assert metrics["accuracy"] == pytest.approx(best.val_accuracy)
    assert metrics["cross_entropy"] == pytest.approx(best.val_loss, abs=1e-6)
    assert metrics["global_step"] == 7 * best.epoch


def test_equal_accuracy_is_decided_by_the_loss():
    assert epoch_rank(Epoch(1, 0, 0, 0.3, 0.9)) > epoch_rank(Epoch(2, 0, 0, 0.4, 0.9))
    assert epoch_rank(Epoch(1, 0, 0, 0.9, 0.91)) > epoch_rank(Epoch(2, 0, 0, 0.1, 0.9))


def test_an_epoch_that_diverged_is_not_the_best():
    nan = float("nan")
    history = [Epoch(1, 0.3, 0.9, 0.4, 0.9), Epoch(2, 0.3, 0.9, nan, 0.33), Epoch(3, nan, 0.3, nan, 0.33)]
    assert max(history, key=epoch_rank).epoch == 1
    assert max([Epoch(number, 0.3, 0.9, nan, nan) for number in (1, 2, 3)], key=epoch_rank).epoch == 3


HIDDEN = (HiddenLayer(8, "relu", 0.5, 0.01), HiddenLayer(4, "tanh", 0.2))


def read_variables(classifier):
    return {name: classifier.get_variable_value(name) for name in classifier.get_variable_names()}


@pytest.mark.parametrize("hidden", [(), HIDDEN], ids=["linear", "hidden"])
def test_one_seed_gives_identical_weights(fit, hidden):
    one, two = (read_variables(fit(name, hidden=hidden)[0]) for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name, value in one.items():
        np.testing.assert_array_equal(value, two[name])
    other = read_variables(fit("other", seed=1, hidden=hidden)[0])
    assert not np.array_equal(one["final_training_ops/weights"], other["final_training_ops/weights"])


def test_training_figures_weigh_every_image_alike_in_a_short_last_batch_too(tmp_path, progress):
    random = np.random.default_rng(4)
    labels = random.integers(0, 3, 257)
    vectors = np.eye(3, 5, dtype=np.float32)[labels] + random.normal(0, 0.01, (257, 5)).astype(np.float32)
    labels[0] = (labels[0] + 1) % 3  # one image under a wrong class, in whichever batch it comes
    (tmp_path / "labels.txt").write_text("a\nb\nc\n")
    weights = 9 * np.eye(5, 3, dtype=np.float32)
    start = {"final_training_ops/weights": weights, "final_training_ops/biases": np.zeros(3, np.float32)}
    head = HeadParams(3, str(tmp_path / "labels.txt"), Architecture(normalize="none"), Optimization(8, 1e-12, 0.0))
    # Batches of 256 and 1, of 200 and 57, of 257: each image is seen once with weights that stay as they are.
    for size in (256, 200, 257):
        classifier = HeadClassifier(tmp_path / str(size), head, 0)
        train = train_from_memory(Vectors(vectors[:, None], labels), 4, size, 0)
        history = classifier.fit(train, None, 4, progress, start)
        probabilities = tf.nn.softmax((vectors @ weights).astype(np.float64)).numpy()
        for epoch in history:
            assert epoch.train_accuracy == pytest.approx(256 / 257)
            assert epoch.train_loss == pytest.approx(log_loss(labels, probabilities), rel=1e-5)


@pytest.mark.parametrize("hidden", [(), HIDDEN], ids=["linear", "hidden"])
def test_what_is_evaluated_after_each_epoch_is_what_the_estimator_would_find(fit, hidden):
    classifier, history, val, _ = fit(epochs=1, hidden=hidden, normalize=STANDARDIZE)
    metrics = classifier.evaluate(val)
    assert history[0].val_accuracy == pytest.approx(metrics["accuracy"])
    assert history[0].val_loss == pytest.approx(metrics["cross_entropy"], abs=1e-6)


def test_any_weights_can_be_evaluated_again_and_again(tmp_path):
    vectors, labels = make_vectors(1500, 3)  # two batches, the second a short one
    (tmp_path / "labels.txt").write_text("a\nb\nc\n")
    classifier = HeadClassifier(
        tmp_path / "model", HeadParams(3, str(tmp_path / "labels.txt"), Architecture(normalize="l2")), 0
    )
    evaluation = RepeatedEvaluation(classifier, evaluate_from_memory(vectors, labels))
    assert sorted(evaluation.variables) == ["final_training_ops/biases:0", "final_training_ops/weights:0"]
    scaled = vectors / np.linalg.norm(vectors, axis=1, keepdims=True) * np.sqrt(5)
    for seed in (0, 1, 0):
        random = np.random.default_rng(seed)
        weights, biases = random.normal(size=(5, 3)).astype(np.float32), random.normal(size=3).astype(np.float32)
        found = evaluation.evaluate({"final_training_ops/weights:0": weights, "final_training_ops/biases:0": biases})
        probabilities = tf.nn.softmax((scaled @ weights + biases).astype(np.float64)).numpy()
        assert found["accuracy"] == pytest.approx(accuracy_score(labels, probabilities.argmax(1)))
        assert found["cross_entropy"] == pytest.approx(log_loss(labels, probabilities), abs=1e-5)
    evaluation.close()


@pytest.mark.parametrize("patience", [1, 3])
def test_patience_ends_training_early_and_the_best_epoch_is_kept(fit, patience):
    classifier, history, val, _ = fit(epochs=30, rate=1.0, patience=patience)
    best = max(history, key=epoch_rank)
    assert len(history) == best.epoch + patience < 30
    metrics = classifier.evaluate(val)
    assert metrics["accuracy"] == pytest.approx(best.val_accuracy)
    assert metrics["global_step"] == 7 * best.epoch
    _, plain, _, _ = fit("plain", epochs=30, rate=1.0)
    assert plain[: len(history)] == history and len(plain) == 30


@pytest.mark.parametrize(("steps", "epochs"), [(1, 1), (7, 1), (10, 2), (15, 3)])
@pytest.mark.parametrize("held_out", [True, False])
def test_training_stops_at_the_step_asked_for(fit, tmp_path, steps, epochs, held_out):
    classifier, history, val, _ = fit(epochs=epochs, steps=steps, rate=1e-3, held_out=held_out)
    assert [epoch.epoch for epoch in history] == list(range(1, epochs + 1))
    assert [step for step, _ in read_scalars(tmp_path / "model")[0]["accuracy"]] == [
        min(7 * number, steps) for number in range(1, epochs + 1)
    ]
    metrics = classifier.evaluate(val)
    if held_out:
        best = max(history, key=epoch_rank)
        assert metrics["accuracy"] == pytest.approx(best.val_accuracy)
        assert metrics["cross_entropy"] == pytest.approx(best.val_loss, abs=1e-6)
        assert metrics["global_step"] == min(7 * best.epoch, steps)
    else:
        assert metrics["global_step"] == steps


def test_without_validation_the_last_epoch_is_kept_and_patience_waits_for_nothing(fit, tmp_path):
    classifier, history, val, labels = fit(epochs=4, held_out=False, patience=1)
    assert [epoch.epoch for epoch in history] == [1, 2, 3, 4]
    assert all(np.isnan(epoch.val_loss) and np.isnan(epoch.val_accuracy) for epoch in history)
    assert history[-1].train_loss < history[0].train_loss
    assert len(list((tmp_path / "model").glob("*.index"))) == 1
    metrics = classifier.evaluate(val)
    assert metrics["global_step"] == 7 * 4
    assert metrics["accuracy"] > 0.6
    assert len(list(classifier.predict(val))) == len(labels)


def test_a_training_that_diverges_is_a_sentence(fit):
    words = refusal(lambda: fit(rate=1e30))
    assert "lower train.learning_rate" in words and "after 0 epochs" in words


def test_training_begins_with_the_values_given(fit):
    random = np.random.default_rng(7)
    shapes = {"hidden0/weights": (5, 8), "hidden0/biases": (8,), "weights": (8, 3), "biases": (3,)}
    shapes.update(mean=(5,), scale=(5,))
    start = {
        f"final_training_ops/{name}": random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()
    }
    classifier, *_ = fit(epochs=1, rate=1e-12, hidden=HIDDEN[:1], normalize=STANDARDIZE, start=start)
    for name, value in start.items():
        np.testing.assert_allclose(classifier.get_variable_value(name), value, atol=1e-9)


def test_mean_and_scale_travel_with_the_checkpoint_and_are_used_to_evaluate(fit):
    mean, scale = np.linspace(-1, 1, 5, dtype=np.float32), np.linspace(0.5, 2, 5, dtype=np.float32)
    start = {"final_training_ops/mean": mean, "final_training_ops/scale": scale}
    classifier, _, val, labels = fit(normalize=STANDARDIZE, start=start)
    variables = read_variables(classifier)
    np.testing.assert_array_equal(variables["final_training_ops/mean"], mean)
    np.testing.assert_array_equal(variables["final_training_ops/scale"], scale)
    vectors, _ = make_vectors(50, 2)
    logits = (vectors - mean) * scale @ variables["final_training_ops/weights"] + variables["final_training_ops/biases"]
    probabilities = tf.nn.softmax(logits.astype(np.float64)).numpy()
    metrics = classifier.evaluate(val)
    assert metrics["accuracy"] == pytest.approx(accuracy_score(labels, logits.argmax(1)))
    assert metrics["cross_entropy"] == pytest.approx(log_loss(labels, probabilities), abs=1e-5)
    predicted = np.array([prediction["probabilities"] for prediction in classifier.predict(val)])
    np.testing.assert_allclose(predicted, probabilities, atol=1e-5)


def test_a_single_output_learns_two_classes(tmp_path, progress):
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 200)
    vectors = (np.eye(2, 5)[labels] * 2 + random.normal(0, 1, (200, 5))).astype(np.float32)
    (tmp_path / "labels.txt").write_text("a\nb\n")
    optimization = Optimization(100, 0.05, 1e-3)
    head = HeadParams(2, str(tmp_path / "labels.txt"), Architecture(output=SIGMOID, normalize="l2"), optimization)
    classifier = HeadClassifier(tmp_path / "model", head, 0)
    train = train_from_memory(Vectors(vectors[:100, None], labels[:100]), 10, 10, 0)
    history = classifier.fit(train, evaluate_from_memory(vectors[100:], labels[100:]), 10, progress)
    assert classifier.get_variable_value("final_training_ops/weights").shape == (5, 1)
    assert max(history, key=epoch_rank).val_accuracy > 0.85


def read_scalars(folder):
    """Return ({tag: [(step, value), ...]}, tags of histograms, whether there is a graph) of a folder's events."""
    (file,) = folder.glob("events*")
    scalars, histograms, graphs = {}, set(), 0
    for event in tf.compat.v1.train.summary_iterator(str(file)):
        graphs += bool(event.graph_def)
        for value in event.summary.value:
            if value.HasField("histo"):
                histograms.add(value.tag)
            else:
                scalars.setdefault(value.tag, []).append((event.step, value.simple_value))
    return scalars, histograms, bool(graphs)


def test_tensorboard_gets_the_graph_and_each_variable_under_the_scope_of_its_layer(fit, tmp_path):
    fit(hidden=HIDDEN)
    scalars, histograms, graph = read_scalars(tmp_path / "model")
    places = [
        f"final_training_ops/{layer}{part}_summaries"
        for layer in ("hidden0/", "hidden1/", "")
        for part in ("weights", "biases", "pre_activations")
    ]
    assert graph
    assert histograms == {f"{place}/histogram" for place in places}
    assert set(scalars) == {
        *(f"{place}/{what}" for place in places for what in ("mean", "stddev", "max", "min")),
        *("train/learning_rate", "train/loss", "loss"),
        *("final_training_ops/batch/cross_entropy", "evaluation/batch/accuracy"),
        *("cross_entropy", "accuracy"),
    }
    rates = [value for _, value in scalars["train/learning_rate"]]
    assert rates[0] == pytest.approx(0.05)


def test_tensorboard_draws_training_and_validation_of_each_epoch_in_one_chart(fit, tmp_path):
    _, history, _, _ = fit()
    training, (validation, _, _) = read_scalars(tmp_path / "model")[0], read_scalars(tmp_path / "model" / "eval")
    for name, split, scalars in (("train", 0, training), ("val", 2, validation)):
        for tag, column in (("cross_entropy", split + 1), ("accuracy", split + 2)):
            steps, values = zip(*scalars[tag], strict=True)
            assert steps == tuple(7 * epoch.epoch for epoch in history), name
            np.testing.assert_allclose(values, [epoch[column] for epoch in history], rtol=1e-5)


def test_without_validation_only_training_is_drawn(fit, tmp_path):
    fit(held_out=False)
    assert len(read_scalars(tmp_path / "model")[0]["accuracy"]) == 5
    assert not read_scalars(tmp_path / "model" / "eval")[0]
