import numpy as np
import pytest
from sklearn.metrics import precision_recall_fscore_support

from components.metrics.confusion import (
    describe_unanswered,
    describe_weakest,
    list_recalls,
    most_confused,
    order_by_confusion,
    score_classes,
)


@pytest.fixture
def confusion():
    random = np.random.default_rng(0)
    matrix = random.integers(0, 9, (6, 6))
    matrix[:, 4] = 0  # a class that is never predicted
    matrix[5] = 0  # a class without test images
    return matrix


def test_class_scores_are_those_of_scikit_learn(confusion):
    actual, predicted = np.nonzero(confusion)
    counts = confusion[actual, predicted]
    expected = precision_recall_fscore_support(
        np.repeat(actual, counts), np.repeat(predicted, counts), labels=range(6), zero_division=0
    )
    rows = score_classes(confusion, list("abcdef"))
    np.testing.assert_allclose(np.array([row[1:] for row in rows]).T, np.array(expected))
    np.testing.assert_allclose(list_recalls(confusion), expected[1][:5])  # without the class that has no images


def test_most_confused_pairs_are_off_the_diagonal_largest_first():
    pairs = most_confused(np.array([[90, 1, 5], [0, 80, 2], [7, 0, 70]]), list("abc"), 3)
    assert [(pair["actual"], pair["predicted"], pair["count"]) for pair in pairs] == [
        ("c", "a", 7),
        ("a", "c", 5),
        ("b", "c", 2),
    ]


def test_classes_that_are_taken_for_each_other_stand_together():
    confusion = 20 * np.eye(6, dtype=int)
    for one, other in ((0, 5), (1, 3), (2, 4)):
        confusion[one, other] = confusion[other, one] = 9
    order = order_by_confusion(confusion)
    assert sorted(order) == list(range(6))
    assert {frozenset(order[at : at + 2]) for at in (0, 2, 4)} == {frozenset(p) for p in ((0, 5), (1, 3), (2, 4))}


@pytest.mark.parametrize(
    "confusion", [np.zeros((0, 0), int), np.eye(1, dtype=int), np.eye(2, dtype=int), np.zeros((4, 4), int)]
)
def test_any_matrix_has_an_order(confusion):
    assert sorted(order_by_confusion(confusion)) == list(range(len(confusion)))


def test_classes_that_are_never_the_answer_are_named_with_their_images_where_they_have_any(confusion):
    labels = [*"abcdef"]
    images = confusion[4].sum()
    (sentence,) = describe_unanswered(confusion, labels)
    assert sentence == f"The model never answers 'e' ({images} test images): no test image of this class is recognised."
    assert describe_unanswered(np.eye(3, dtype=int), [*"abc"]) == []
    twelve = np.zeros((13, 13), int)
    twelve[:, 12] = 1
    (sentence,) = describe_unanswered(twelve, [*"abcdefghijklm"])
    assert sentence.startswith("The model never answers 'a' (1 test image), 'b' (1 test image), ")
    assert sentence.endswith("'j' (1 test image) and 2 more: no test image of these classes is recognised.")


def test_the_weakest_class_is_the_one_of_least_recall_and_of_equal_ones_the_largest():
    confusion = np.array([[9, 1, 0], [2, 2, 0], [0, 0, 0]])
    assert describe_weakest(confusion, [*"abc"]) == "class 'b', 4 test images"
    confusion = np.array([[0, 1, 0], [0, 2, 0], [3, 0, 0]])
    assert describe_weakest(confusion, [*"abc"]) == "class 'c', 3 test images and 1 more like it"
