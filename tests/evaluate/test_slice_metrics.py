import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    confusion_matrix,
    log_loss,
    recall_score,
    top_k_accuracy_score,
)
from tensorflow_model_analysis.metrics import metric_types

from components.evaluate.slice_metrics import (
    AverageScores,
    CountPairs,
    average_recalls,
    least_recall,
    pair_classes,
    score_accuracy,
    score_loss,
    score_top5,
)

KEY = metric_types.MetricKey("score")


def combine(combiner, scores, bundles):
    """Return what a combiner makes of scores that arrive in bundles."""
    parts = []
    for bundle in np.array_split(np.arange(len(scores)), bundles):
        accumulator = combiner.create_accumulator()
        for row in bundle:
            accumulator = combiner.add_input(accumulator, scores[row])
        parts.append(accumulator)
    return combiner.extract_output(combiner.merge_accumulators(parts))[KEY]


@pytest.fixture(scope="module")
def predicted():
    random = np.random.default_rng(0)
    return random.integers(0, 20, 500), random.dirichlet(np.ones(20) / 2, 500)


@pytest.mark.parametrize("bundles", [1, 7])
def test_averages_agree_with_scikit_learn(predicted, bundles):
    labels, probabilities = predicted

    def average(score):
        return combine(AverageScores(KEY), [score(*pair) for pair in zip(labels, probabilities, strict=True)], bundles)

    assert average(score_accuracy) == pytest.approx(accuracy_score(labels, probabilities.argmax(1)))
    assert average(score_top5) == pytest.approx(top_k_accuracy_score(labels, probabilities, k=5))
    clipped = np.clip(probabilities, 1e-7, 1)
    expected = -np.log(clipped[np.arange(500), labels]).mean()
    assert average(score_loss) == pytest.approx(expected)
    kept = probabilities.min(1) > 1e-7
    assert log_loss(labels[kept], probabilities[kept], labels=range(20)) == pytest.approx(
        np.mean([score_loss(*pair) for pair in zip(labels[kept], probabilities[kept], strict=True)])
    )


def test_pairs_make_the_confusion_matrix_of_scikit_learn(predicted):
    labels, probabilities = predicted
    matrices = combine(CountPairs(KEY), [pair_classes(*pair) for pair in zip(labels, probabilities, strict=True)], 3)
    expected = confusion_matrix(labels, probabilities.argmax(1), labels=range(20))
    entries = {(key.actual_class_id, key.predicted_class_id): count for key, count in matrices[0.0].items()}
    assert entries == {(a, p): expected[a, p] for a, p in np.argwhere(expected)}


def test_mean_and_least_recall_are_those_of_scikit_learn_over_the_classes_that_have_an_example(predicted):
    labels, probabilities = predicted
    there = labels != 7  # though it is predicted
    pairs = [pair_classes(*pair) for pair in zip(labels[there], probabilities[there], strict=True)]
    entries = combine(CountPairs(KEY), pairs, 3)[0.0]
    answers = probabilities[there].argmax(1)
    assert 7 in answers
    assert average_recalls(entries) == pytest.approx(balanced_accuracy_score(labels[there], answers))
    recalls = recall_score(labels[there], answers, labels=np.unique(labels[there]), average=None)
    assert least_recall(entries) == pytest.approx(recalls.min())


def test_ties_go_to_the_first_class_and_count_as_among_the_first_five():
    even = np.full(6, 1 / 6)
    assert score_accuracy(0, even) == 1 and score_accuracy(1, even) == 0
    assert score_top5(5, even) == 1
    assert score_top5(5, np.arange(6)[::-1] / 15) == 0


def test_with_fewer_than_five_classes_each_is_among_the_first_five():
    assert score_top5(2, np.array([0.5, 0.4, 0.1])) == 1


def test_a_probability_of_zero_is_no_infinite_loss():
    assert score_loss(1, np.array([1.0, 0.0])) == pytest.approx(-np.log(1e-7))


def test_no_example_has_no_average():
    assert np.isnan(combine(AverageScores(KEY), [], 1))
