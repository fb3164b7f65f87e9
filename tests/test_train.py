import numpy as np
import pytest
import tensorflow as tf
from sklearn.metrics import accuracy_score, log_loss

from components.model import Optimisation
from components.shards import BottleneckTable
from components.train import Epoch, HeadClassifier, epoch_rank, evaluation_input, training_input


def table(count, seed, noise=1.0):
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, count)
    vectors = (np.eye(3, 5)[labels] * 2 + random.normal(0, noise, (count, 5))).astype(np.float32)
    return BottleneckTable([f"k{i}" for i in range(count)], [b""] * count, vectors, labels, [""] * count, [""] * count)


@pytest.fixture
def fit(tmp_path, progress):
    (tmp_path / "labels.txt").write_text("a\nb\nc\n")

    def run(name="model", seed=0, epochs=5, rate=0.05):
        train, val = table(100, 1), table(50, 2)
        optimisation = Optimisation(steps=epochs * 7, learning_rate=rate, l2=1e-3)
        classifier = HeadClassifier(tmp_path / name, tmp_path / "labels.txt", 3, seed, optimisation)
        return classifier, classifier.fit(train, val, epochs, 16, seed, progress), val

    return run


def test_fit_evaluate_and_predict_agree_with_scikit_learn(fit):
    classifier, history, val = fit()
    assert [epoch.epoch for epoch in history] == [1, 2, 3, 4, 5]
    metrics = classifier.evaluate(evaluation_input(val))
    predictions = list(classifier.predict(evaluation_input(val)))
    index = [prediction["index"] for prediction in predictions]
    probabilities = np.array([prediction["probabilities"] for prediction in predictions], np.float64)
    assert metrics["accuracy"] == pytest.approx(accuracy_score(val.labels, index))
    assert metrics["cross_entropy"] == pytest.approx(
        log_loss(val.labels, probabilities / probabilities.sum(1, keepdims=True)), abs=1e-5
    )
    assert predictions[0]["label"] in (b"a", b"b", b"c")
    assert metrics["accuracy"] > 0.6


def test_the_checkpoint_kept_is_the_best_epoch_by_validation(fit):
    classifier, history, val = fit(rate=1.0)
    best = max(history, key=epoch_rank)
    metrics = classifier.evaluate(evaluation_input(val))
    assert metrics["accuracy"] == pytest.approx(best.val_accuracy)
    assert metrics["cross_entropy"] == pytest.approx(best.val_loss, abs=1e-6)
    assert metrics["global_step"] == 7 * best.epoch


def test_equal_accuracy_is_decided_by_the_loss():
    assert epoch_rank(Epoch(1, 0, 0, 0.3, 0.9)) > epoch_rank(Epoch(2, 0, 0, 0.4, 0.9))
    assert epoch_rank(Epoch(1, 0, 0, 0.9, 0.91)) > epoch_rank(Epoch(2, 0, 0, 0.1, 0.9))


def test_one_seed_gives_identical_weights(fit):
    values = []
    for name in ("one", "two"):
        classifier, _, _ = fit(name)
        values.append({key: classifier.get_variable_value(key) for key in classifier.get_variable_names()})
    assert values[0].keys() == values[1].keys()
    for key in values[0]:
        np.testing.assert_array_equal(values[0][key], values[1][key])


def test_every_epoch_sees_each_example_once_in_another_order():
    data = table(50, 0)
    batches = list(training_input(data, 2, 16, 0)().as_numpy_iterator())
    assert [len(labels) for _, labels in batches] == [16, 16, 16, 2] * 2
    epochs = [np.concatenate([f["bottleneck"] for f, _ in batches[start : start + 4]]) for start in (0, 4)]
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch, 0), np.sort(data.vectors, 0))
    assert (epochs[0] != epochs[1]).any()


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
