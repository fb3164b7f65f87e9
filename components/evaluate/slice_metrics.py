"""The metrics of a slice for TFMA: what an example adds to them is computed once, before it enters its slices.

TFMA's Keras metrics update each slice in eager TensorFlow, and its confusion matrix looks at whole predictions in each:
two fifths of the time of an evaluation with a slice for each of 100 classes.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import tensorflow_model_analysis as tfma
from tensorflow_model_analysis.metrics import metric_types, metric_util
from tensorflow_model_analysis.metrics.multi_class_confusion_matrix_metrics import Matrices, MatrixEntryKey

# The metrics that run.json states and thresholds may bound; loss is the mean cross entropy.
ACCURACY, TOP5, LOSS = "accuracy", "top5", "loss"
MEAN_CLASS_ACCURACY, MIN_CLASS_RECALL = "mean_class_accuracy", "min_class_recall"
CONFUSION = "confusion"
TOP_K = 5

# As in Keras: a probability of 0 is no infinite loss.
EPSILON = 1e-7


def score_accuracy(label: int, probabilities: np.ndarray) -> float:
    """Return 1 where the most probable class, of equal ones the first, is the label."""
    return float(probabilities.argmax() == label)


def score_top5(label: int, probabilities: np.ndarray) -> float:
    """Return 1 where fewer than five classes are more probable than the label."""
    return float((probabilities > probabilities[label]).sum() < TOP_K)


def score_loss(label: int, probabilities: np.ndarray) -> float:
    """Return the cross entropy in nats."""
    return -float(np.log(max(probabilities[label], EPSILON)))


def pair_classes(label: int, probabilities: np.ndarray) -> tuple[int, int]:
    """Return the actual and the predicted class."""
    return label, int(probabilities.argmax())


class ScoreExample(metric_types.Preprocessor):
    """Turns TFMA's extracts of an example into its score for one model."""

    def __init__(self, score: Callable[[int, np.ndarray], Any], eval_config: Any, model_name: str):
        super().__init__(name=f"{score.__name__} {model_name}")
        self._score = score
        self._eval_config = eval_config
        self._model_name = model_name

    def process(self, extracts: dict[str, Any]) -> Iterator[Any]:
        inputs = metric_util.to_standard_metric_inputs(extracts)
        label, probabilities, _ = next(
            metric_util.to_label_prediction_example_weight(
                inputs, eval_config=self._eval_config, model_name=self._model_name, flatten=False
            )
        )
        yield self._score(int(label.item()), probabilities.astype(np.float64))


class AverageScores(beam.CombineFn):
    """Averages numbers."""

    def __init__(self, key: metric_types.MetricKey):
        self._key = key

    def create_accumulator(self) -> tuple[float, int]:
        return 0.0, 0

    def add_input(self, accumulator: tuple[float, int], score: float) -> tuple[float, int]:
        return accumulator[0] + score, accumulator[1] + 1

    def merge_accumulators(self, accumulators: Iterable[tuple[float, int]]) -> tuple[float, int]:
        totals, counts = zip(*accumulators, strict=True)
        return sum(totals), sum(counts)

    def extract_output(self, accumulator: tuple[float, int]) -> dict[metric_types.MetricKey, float]:
        total, count = accumulator
        return {self._key: total / count if count else float("nan")}


class CountPairs(beam.CombineFn):
    """Counts pairs of actual and predicted class, into TFMA's own confusion matrix."""

    def __init__(self, key: metric_types.MetricKey):
        self._key = key

    def create_accumulator(self) -> Counter[tuple[int, int]]:
        return Counter()

    def add_input(self, accumulator: Counter[tuple[int, int]], pair: tuple[int, int]) -> Counter[tuple[int, int]]:
        accumulator[pair] += 1
        return accumulator

    def merge_accumulators(self, accumulators: Iterable[Counter[tuple[int, int]]]) -> Counter[tuple[int, int]]:
        return sum(accumulators, Counter())

    def extract_output(self, accumulator: Counter[tuple[int, int]]) -> dict[metric_types.MetricKey, Matrices]:
        entries = {MatrixEntryKey(*pair): float(count) for pair, count in accumulator.items()}
        return {self._key: Matrices({0.0: entries})}


def average_recalls(entries: Mapping[MatrixEntryKey, float]) -> float:
    """Return the mean of the recalls of all classes that have an example."""
    recalls = _list_recalls(entries)
    return sum(recalls) / len(recalls)


def least_recall(entries: Mapping[MatrixEntryKey, float]) -> float:
    """Return the least recall of a class that has an example."""
    return min(_list_recalls(entries))


def _list_recalls(entries: Mapping[MatrixEntryKey, float]) -> list[float]:
    actual, hits = defaultdict[int, float](float), defaultdict[int, float](float)
    for key, count in entries.items():
        actual[key.actual_class_id] += count
        hits[key.actual_class_id] += count * (key.actual_class_id == key.predicted_class_id)
    return [hits[label] / count for label, count in actual.items()]


def _compute(
    score: Callable[[int, np.ndarray], Any], combine: Callable[[metric_types.MetricKey], beam.CombineFn]
) -> Callable[..., metric_types.MetricComputations]:
    def create_computations(
        name: str, eval_config: Any = None, model_names: Sequence[str] | None = None
    ) -> metric_types.MetricComputations:
        computations = []
        for model_name in model_names or [""]:
            key = metric_types.MetricKey(name, model_name)
            preprocessor = ScoreExample(score, eval_config, model_name)
            computations.append(metric_types.MetricComputation([key], [preprocessor], combine(key)))
        return computations

    return create_computations


def _derive(
    reduce: Callable[[Mapping[MatrixEntryKey, float]], float],
) -> Callable[..., metric_types.MetricComputations]:
    def create_computations(
        name: str, eval_config: Any = None, model_names: Sequence[str] | None = None
    ) -> metric_types.MetricComputations:
        # TFMA computes the confusion matrix once, though three metrics ask for it.
        computations = _compute(pair_classes, CountPairs)(CONFUSION, eval_config, model_names)
        for confusion in [computation.keys[0] for computation in computations]:
            key = metric_types.MetricKey(name, confusion.model_name)

            def derive(
                metrics: Mapping[metric_types.MetricKey, Matrices],
                key: metric_types.MetricKey = key,
                confusion: metric_types.MetricKey = confusion,
            ) -> dict[metric_types.MetricKey, float]:
                return {key: reduce(metrics[confusion][0.0])}

            computations.append(metric_types.DerivedMetricComputation([key], derive))
        return computations

    return create_computations


class Accuracy(tfma.metrics.Metric):
    """The share of examples whose most probable class is their label."""

    def __init__(self, name: str = ACCURACY):
        super().__init__(_compute(score_accuracy, AverageScores), name=name)


class Top5(tfma.metrics.Metric):
    """The share of examples whose label is among the five most probable classes."""

    def __init__(self, name: str = TOP5):
        super().__init__(_compute(score_top5, AverageScores), name=name)


class Loss(tfma.metrics.Metric):
    """The mean cross entropy."""

    def __init__(self, name: str = LOSS):
        super().__init__(_compute(score_loss, AverageScores), name=name)


class Confusion(tfma.metrics.Metric):
    """The confusion matrix."""

    def __init__(self, name: str = CONFUSION):
        super().__init__(_compute(pair_classes, CountPairs), name=name)


class MeanClassAccuracy(tfma.metrics.Metric):
    """The mean of the recalls of all classes that have an example."""

    def __init__(self, name: str = MEAN_CLASS_ACCURACY):
        super().__init__(_derive(average_recalls), name=name)


class MinClassRecall(tfma.metrics.Metric):
    """The least recall of a class that has an example."""

    def __init__(self, name: str = MIN_CLASS_RECALL):
        super().__init__(_derive(least_recall), name=name)


METRICS = (Accuracy, Top5, Loss, Confusion, MeanClassAccuracy, MinClassRecall)
