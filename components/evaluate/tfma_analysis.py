"""TFMA over test shards: its configuration, its run with the predictions that it measures, and what it found."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import tensorflow_model_analysis as tfma
from apache_beam.options.pipeline_options import PipelineOptions
from tensorflow_model_analysis.extractors.slice_key_extractor import SLICE_KEY_EXTRACTOR_STAGE_NAME
from tensorflow_model_analysis.proto import config_pb2, metrics_for_slice_pb2, validation_result_pb2

from components import features
from components.evaluate.prediction_table import WritePredictions, join_predictions
from components.evaluate.slice_metrics import (
    ACCURACY,
    CONFUSION,
    LOSS,
    MEAN_CLASS_ACCURACY,
    METRICS,
    MIN_CLASS_RECALL,
    TOP5,
)
from components.outcomes import Examples
from components.shards.records import shard_patterns
from components.storage.places import plain_folder

CANDIDATE, BASELINE = "candidate", "baseline"


def make_eval_config(thresholds: Mapping[str, float], max_accuracy_drop: float | None) -> config_pb2.EvalConfig:
    """Return TFMA's configuration; max_accuracy_drop, where given, asks for a baseline model."""
    bounds: dict[str, config_pb2.MetricThreshold] = {}
    for name, bound in thresholds.items():
        side = {"upper_bound": {"value": bound}} if name == LOSS else {"lower_bound": {"value": bound}}
        bounds[name] = config_pb2.MetricThreshold(value_threshold=config_pb2.GenericValueThreshold(**side))
    if max_accuracy_drop is not None:
        drop = bounds.setdefault(ACCURACY, config_pb2.MetricThreshold()).change_threshold
        drop.direction = config_pb2.MetricDirection.HIGHER_IS_BETTER
        drop.absolute.value = -max_accuracy_drop
    overall = config_pb2.SlicingSpec()
    # TFMA finds the metrics of a single model only under the empty name.
    names = [""] if max_accuracy_drop is None else [CANDIDATE, BASELINE]
    models = [
        config_pb2.ModelSpec(
            name=name,
            signature_name=features.BOTTLENECK_SIGNATURE,
            label_key=features.LABEL,
            prediction_key=features.PROBABILITIES,
            is_baseline=name == BASELINE,
        )
        for name in names
    ]
    metrics = [config_pb2.MetricConfig(class_name="ExampleCount")]
    for kind in METRICS:
        # On the metric, not on the specification: TFMA takes those for metrics computed in the graph.
        limit = bounds.get(kind().name)
        per_slice = [config_pb2.PerSliceMetricThreshold(slicing_specs=[overall], threshold=limit)] if limit else []
        metrics.append(
            config_pb2.MetricConfig(class_name=kind.__name__, module=kind.__module__, per_slice_thresholds=per_slice)
        )
    return config_pb2.EvalConfig(
        model_specs=models,
        metrics_specs=[config_pb2.MetricsSpec(metrics=metrics)],
        slicing_specs=[
            overall,
            config_pb2.SlicingSpec(feature_keys=[features.TEXT]),
            config_pb2.SlicingSpec(feature_keys=[features.SOURCE]),
        ],
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
    """Write what the first of some models predicts for the test shards in a folder of bottlenecks to a csv file, in
    order of key, and beside it TFMA's results for all.

    With rubber_stamp, TFMA notes that a model to compare with is missing.
    """
    folder = predictions.parent
    # Predictions are those that TFMA measures, so that the models are loaded and run once.
    write = tfma.evaluators.Evaluator(
        "WritePredictions",
        SLICE_KEY_EXTRACTOR_STAGE_NAME,
        WritePredictions(next(iter(models)), examples.labels, predictions, examples.splits["test"]),
    )
    # Without files of plots and attributions, of which this configuration has none.
    results = {key: str(folder / key) for key in (tfma.METRICS_KEY, tfma.VALIDATIONS_KEY)}
    writers = [
        tfma.writers.EvalConfigWriter(
            str(folder),
            config,
            data_location=str(bottlenecks),
            data_file_format="tfrecords",
            model_locations={name: str(path) for name, path in models.items()},
        ),
        tfma.writers.MetricsPlotsAndValidationsWriter(results, config, rubber_stamp=rubber_stamp),
    ]
    with ExitStack() as stack:
        plain = {name: stack.enter_context(plain_folder(path)) for name, path in models.items()}
        loaders = [
            tfma.default_eval_shared_model(str(path), model_name=name, eval_config=config)
            for name, path in plain.items()
        ]
        tfma.run_model_analysis(
            loaders,
            config,
            shard_patterns(stack.enter_context(plain_folder(bottlenecks)), "test", examples.shards),
            output_path=str(folder),
            evaluators=[*tfma.default_evaluators(eval_shared_model=loaders, eval_config=config), write],
            writers=writers,
            pipeline_options=options,
        )
    join_predictions(predictions)


def _read_slices(folder: Path) -> list[tuple[str, str, dict[str, metrics_for_slice_pb2.MetricsForSlice]]]:
    slices = []
    with plain_folder(folder) as plain:
        entries = [*tfma.load_metrics(str(plain))]
    for entry in entries:
        name, value = "", ""
        for key in entry.slice_key.single_slice_keys:
            name, value = key.column, key.bytes_value.decode("utf-8", "surrogateescape")
        values = {
            item.key.name: item.value
            for item in entry.metric_keys_and_values
            if item.key.model_name in ("", CANDIDATE) and not item.key.is_diff
        }
        slices.append((name, value, values))
    return slices


def read_metrics(folder: Path) -> dict[str, float]:
    """Return the metrics that thresholds may bound, over the whole test split."""
    (overall,) = [values for name, _, values in _read_slices(folder) if not name]
    names = (ACCURACY, TOP5, LOSS, MEAN_CLASS_ACCURACY, MIN_CLASS_RECALL)
    return {name: overall[name].double_value.value for name in names}


def read_slice_metrics(folder: Path, feature: str) -> dict[str, dict[str, float]]:
    """Return count, accuracy, top5 and loss for each value of a slicing feature."""
    return {
        value: {
            "count": values["example_count"].double_value.value,
            **{metric: values[metric].double_value.value for metric in (ACCURACY, TOP5, LOSS)},
        }
        for name, value, values in _read_slices(folder)
        if name == feature
    }


def read_confusion(folder: Path, classes: int) -> np.ndarray:
    """Return TFMA's confusion matrix of the test split: int64[C, C], row actual, column predicted."""
    (overall,) = [values for name, _, values in _read_slices(folder) if not name]
    matrix = np.zeros((classes, classes), np.int64)
    for at_threshold in overall[CONFUSION].multi_class_confusion_matrix_at_thresholds.matrices:
        for entry in at_threshold.entries:
            matrix[entry.actual_class_id, entry.predicted_class_id] = round(entry.num_weighted_examples)
    return matrix


def describe_failures(
    result: validation_result_pb2.ValidationResult, baseline: Path | None, details: Mapping[str, str]
) -> list[str]:
    """Return one sentence for each threshold that was missed, and for each that could not be checked.

    details says more of a metric by its name.
    """
    sentences = []
    for slice_result in result.metric_validations_per_slice:
        for failure in slice_result.failures:
            name, value = failure.metric_key.name, failure.metric_value.double_value.value
            detail = f" ({details[name]})" if name in details else ""
            bound = failure.metric_threshold.value_threshold
            if failure.metric_key.is_diff and baseline:
                allowed = -failure.metric_threshold.change_threshold.absolute.value
                sentences.append(
                    f"{name} changed by {value:+.4f} against export {baseline.name}, allowed is a drop of {allowed:g}"
                )
            elif bound.HasField("upper_bound"):
                sentences.append(f"{name} is {value:.4f}{detail}, at most {bound.upper_bound.value:g} was asked for")
            elif bound.HasField("lower_bound"):
                sentences.append(f"{name} is {value:.4f}{detail}, at least {bound.lower_bound.value:g} was asked for")
            else:
                sentences.append(f"{name} could not be checked: {failure.message}")
    sentences += [
        f"the slice {spec.feature_keys or dict(spec.feature_values)} that has a threshold is empty"
        for spec in result.missing_slices
    ]
    if not result.validation_ok and not sentences and not result.missing_thresholds:
        sentences.append("TFMA refused the model without naming a threshold")
    return sentences
