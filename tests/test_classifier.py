import numpy as np
import pytest
import tensorflow as tf
from sklearn.metrics import accuracy_score, log_loss

from components.classifier import Epoch, HeadClassifier, epoch_rank
from components.head_input import Vectors, evaluate_from_memory, train_from_memory
from components.model import Architecture, HeadParams, HiddenLayer
from components.optimisation import Optimisation


def make_vectors(count, seed):
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, count)
    return (np.eye(3, 5)[labels] * 2 + random.normal(0, 1, (count, 5))).astype(np.float32), labels


@pytest.fixture
def fit(tmp_path, progress):
    """Return a function that trains, and gives (classifier, history, validation batches' input_fn, their labels)."""
    (tmp_path / "labels.txt").write_text("a\nb\nc\n")

    def run(name="model", seed=0, epochs=5, rate=0.05, hidden=(), start=None, patience=None, held_out=True):
        vectors, labels = make_vectors(100, 1)
        train = train_from_memory(Vectors(vectors[:, None], labels), epochs, 16, seed)
        vectors, labels = make_vectors(50, 2)
        val = evaluate_from_memory(vectors, labels)
        optimisation = Optimisation(steps=epochs * 7, learning_rate=rate, l2=1e-3)
        head = HeadParams(3, str(tmp_path / "labels.txt"), Architecture(hidden), optimisation)
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


@pytest.mark.parametrize("hidden", [(), (HiddenLayer(8, "relu", 0.5, 0.01),)])
def test_one_seed_gives_identical_weights(fit, hidden):
    values = []
    for name in ("one", "two"):
        classifier, *_ = fit(name, hidden=hidden)
        values.append({key: classifier.get_variable_value(key) for key in classifier.get_variable_names()})
    assert values[0].keys() == values[1].keys()
    for key in values[0]:
        np.testing.assert_array_equal(values[0][key], values[1][key])


def test_what_is_evaluated_after_each_epoch_is_what_the_estimator_would_find(fit):
    classifier, history, val, _ = fit(epochs=1)
    metrics = classifier.evaluate(val)
    assert history[0].val_accuracy == pytest.approx(metrics["accuracy"])
    assert history[0].val_loss == pytest.approx(metrics["cross_entropy"], abs=1e-6)


def test_patience_ends_training_early_and_the_best_epoch_is_kept(fit):
    classifier, history, val, _ = fit(epochs=30, rate=1.0, patience=2)
    best = max(history, key=epoch_rank)
    assert len(history) == best.epoch + 2 < 30
    assert classifier.evaluate(val)["accuracy"] == pytest.approx(best.val_accuracy)


def test_without_validation_the_last_epoch_is_kept(fit):
    classifier, history, val, _ = fit(epochs=4, held_out=False)
    assert classifier.evaluate(val)["global_step"] == 7 * 4
    assert all(np.isnan(epoch.val_loss) for epoch in history)


def test_training_begins_with_the_values_given(fit):
    start = {"final_training_ops/weights": np.arange(15, dtype=np.float32).reshape(5, 3)}
    classifier, *_ = fit(epochs=1, rate=1e-9, start=start)
    np.testing.assert_allclose(
        classifier.get_variable_value("final_training_ops/weights"), start["final_training_ops/weights"], atol=1e-5
    )


def test_the_model_directory_has_events_for_tensorboard(fit, tmp_path):
    fit()
    (events,) = (tmp_path / "model").glob("events*")
    tags, graphs = set(), 0
    for event in tf.compat.v1.train.summary_iterator(str(events)):
        tags |= {value.tag for value in event.summary.value}
        graphs += bool(event.graph_def)
    assert any("weights_summaries" in tag for tag in tags)
    assert any("learning_rate" in tag for tag in tags)
    assert graphs
    assert list((tmp_path / "model" / "eval").glob("events*"))
