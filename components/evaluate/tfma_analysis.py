"""Configure TFMA, run it over the test shards, and read its results."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_model_analysis as tfma
from apache_beam.options.pipeline_options import PipelineOptions
from tensorflow_model_analysis.extractors.slice_key_extractor import SLICE_KEY_EXTRACTOR_STAGE_NAME
from tensorflow_model_analysis.proto import config_pb2, validation_result_pb2

from components import features
from components.evaluate.prediction_table import join_predictions, write_prediction_parts
from components.outcomes import Examples
from components.shards.records import shard_patterns
from components.storage.places import plain_folder

CANDIDATE, BASELINE = "candidate", "baseline"
ACCURACY, TOP5, LOSS, COUNT, CONFUSION = "accuracy", "top5", "loss", "count", "confusion"
# Classes of Keras and TFMA with their settings. float64, as 9/10 in float32 is below a threshold of 0.9; top five has
# only float32.
METRICS: dict[str, tuple[str, dict[str, Any]]] = {
    ACCURACY: ("SparseCategoricalAccuracy", {"dtype": "float64"}),
    TOP5: ("SparseTopKCategoricalAccuracy", {"k": 5}),
    LOSS: ("SparseCategoricalCrossentropy", {"dtype": "float64"}),
    COUNT: ("ExampleCount", {}),
    CONFUSION: ("MultiClassConfusionMatrixAtThresholds", {"thresholds": [0.0]}),
}


def make_eval_config(thresholds: Mapping[str, float], max_accuracy_drop: float | None) -> config_pb2.EvalConfig:
    """Return TFMA's configuration with thresholds by name in METRICS; max_accuracy_drop adds a baseline model."""
    overall = config_pb2.SlicingSpec()
    metrics = []
    for name, (kind, settings) in METRICS.items():
        limit = config_pb2.MetricThreshold()
        if name in thresholds:
            bound = float(np.float32(thresholds[name])) if name == TOP5 else thresholds[name]
            (limit.value_threshold.upper_bound if name == LOSS else limit.value_threshold.lower_bound).value = bound
        if name == ACCURACY and max_accuracy_drop is not None:
            limit.change_threshold.direction = config_pb2.MetricDirection.HIGHER_IS_BETTER
            limit.change_threshold.absolute.value = -max_accuracy_drop
        # Set on the metric, as TFMA applies those of the specification to metrics in the graph.
        limits = [config_pb2.PerSliceMetricThreshold(slicing_specs=[overall], threshold=limit)]
        config = json.dumps({"name": name, **settings})
        metrics.append(config_pb2.MetricConfig(class_name=kind, config=config, per_slice_thresholds=limits))
    # TFMA finds the metrics of a single model only under an empty name.
    models = [
        config_pb2.ModelSpec(
            name=name,
            signature_name=features.BOTTLENECK_SIGNATURE,
            label_key=features.LABEL,
            prediction_key=features.PROBABILITIES,
            is_baseline=name == BASELINE,
        )
        for name in ([""] if max_accuracy_drop is None else [CANDIDATE, BASELINE])
    ]
    slices = [config_pb2.SlicingSpec(feature_keys=[feature]) for feature in (features.TEXT, features.SOURCE)]
    return config_pb2.EvalConfig(
        model_specs=models,
        metrics_specs=[config_pb2.MetricsSpec(metrics=metrics)],
        slicing_specs=[overall, *slices],
    )


def analyze_model(
    config: config_pb2.EvalConfig,
    models: Mapping[str, Path],
    bottlenecks: Path,
    examples: Examples,
    predictions: Path,
    rubber_stamp: bool,
    options: PipelineOptions,
) -> None:
    """Write TFMA's results for models on the test shards of bottlenecks, and the first model's predictions.

    predictions is the path of a CSV table sorted by key; TFMA's results go to its folder. rubber_stamp tells TFMA that
    the baseline is missing.
    """
    folder = str(predictions.parent)
    # The predictions come from the extracts that TFMA measures, so each model runs once.
    write = tfma.evaluators.Evaluator(
        "WritePredictions",
        SLICE_KEY_EXTRACTOR_STAGE_NAME,
        write_prediction_parts(next(iter(models)), examples.labels, predictions, examples.splits["test"]),
    )
    with ExitStack() as stack:
        loaders = [
            tfma.default_eval_shared_model(
                str(stack.enter_context(plain_folder(path))),
                model_name=name,
                eval_config=config,
                rubber_stamp=rubber_stamp,
            )
            for name, path in models.items()
        ]
        tfma.run_model_analysis(
            loaders,
            config,
            shard_patterns(stack.enter_context(plain_folder(bottlenecks)), "test", examples.shards),
            output_path=folder,
            evaluators=[*tfma.default_evaluators(eval_shared_model=loaders, eval_config=config), write],
            writers=tfma.default_writers(folder, loaders, config, str(bottlenecks)),
            pipeline_options=options,
        )
    join_predictions(predictions)


def _read_slices(folder: Path) -> dict[tuple, dict[str, dict]]:
    """Return the candidate's results by metric for each slice ((feature, value),), and for () over all images."""
    with plain_folder(folder) as plain:
        slices: dict[tuple, dict[str, dict]] = tfma.load_eval_result(str(plain)).get_metrics_for_all_slices()
    return slices


def read_metrics(folder: Path) -> dict[str, float]:
    """Return accuracy, top5 and loss over the whole test split."""
    overall = _read_slices(folder)[()]
    return {name: float(overall[name]["doubleValue"]) for name in (ACCURACY, TOP5, LOSS)}


def read_slice_metrics(folder: Path, feature: str) -> dict[str, dict[str, float]]:
    """Return count, accuracy, top5 and loss for each value of a slicing feature."""
    return {
        key[0][1]: {name: float(values[name]["doubleValue"]) for name in (COUNT, ACCURACY, TOP5, LOSS)}
        for key, values in _read_slices(folder).items()
        if key and key[0][0] == feature
    }


def read_confusion(folder: Path, classes: int) -> np.ndarray:
    """Return TFMA's confusion matrix of the test split: int64[C, C], row actual, column predicted."""
    (found,) = _read_slices(folder)[()][CONFUSION]["multiClassConfusionMatrixAtThresholds"]["matrices"]
    matrix = np.zeros((classes, classes), np.int64)
    for entry in found["entries"]:  # TFMA leaves out values of 0
        matrix[entry.get("actualClassId", 0), entry.get("predictedClassId", 0)] = entry["numWeightedExamples"]
    return matrix


def describe_failures(result: validation_result_pb2.ValidationResult, baseline: Path | None) -> list[str]:
    """Return one sentence for each missed threshold and for each that TFMA could not check."""
    sentences = []
    for slice_result in result.metric_validations_per_slice:
        for failure in slice_result.failures:
            name, value = failure.metric_key.name, failure.metric_value.double_value.value
            bound = failure.metric_threshold.value_threshold
            if failure.metric_key.is_diff and baseline:
                allowed = -failure.metric_threshold.change_threshold.absolute.value
                sentences.append(
                    f"{name} changed by {value:+.4f} against export {baseline.name}, allowed is a drop of {allowed:g}"
                )
            elif bound.HasField("upper_bound"):
                sentences.append(f"{name} is {value:.4f}, at most {bound.upper_bound.value:g} was asked for")
            elif bound.HasField("lower_bound"):
                sentences.append(f"{name} is {value:.4f}, at least {bound.lower_bound.value:g} was asked for")
            else:
                sentences.append(f"{name} could not be checked: {failure.message}")
    sentences += [
        f"the slice {spec.feature_keys or dict(spec.feature_values)} that has a threshold is empty"
        for spec in result.missing_slices
    ]
    if not result.validation_ok and not sentences and not result.missing_thresholds:
        sentences.append("TFMA refused the model without naming a threshold")
    return sentences
