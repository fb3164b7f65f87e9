"""TFMA over test shards: its configuration, its run with the predictions that it measures, and what it found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import tensorflow_model_analysis as tfma
from apache_beam.options.pipeline_options import PipelineOptions
from tensorflow_model_analysis.extractors.slice_key_extractor import SLICE_KEY_EXTRACTOR_STAGE_NAME
from tensorflow_model_analysis.proto import config_pb2, metrics_for_slice_pb2, validation_result_pb2

from components import features
from components.places import as_path, plain_folder
from components.prediction_table import WritePredictions, join_predictions
from components.slice_metrics import ACCURACY, CONFUSION, LOSS, METRICS, TOP5

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
    files: Sequence[str],
    images: int,
    labels: Sequence[str],
    folder: Path,
    predictions: Path,
    options: PipelineOptions,
) -> None:
    """Write TFMA's results for models to a folder, and what the first one predicts to a csv file in order of key.

    images is the number of them in the test shards.
    """
    # Predictions are those that TFMA measures, so that the models are loaded and run once.
    write = tfma.evaluators.Evaluator(
        "WritePredictions",
        SLICE_KEY_EXTRACTOR_STAGE_NAME,
        WritePredictions(next(iter(models)), labels, predictions, images),
    )
    records = f"{files[0].rpartition('/')[0]}/test-*.tfrecord"
    # Without files of plots and attributions, of which this configuration has none.
    results = {key: str(folder / key) for key in (tfma.METRICS_KEY, tfma.VALIDATIONS_KEY)}
    writers = [
        tfma.writers.EvalConfigWriter(
            str(folder),
            config,
            data_location=records,
            data_file_format="tfrecords",
            model_locations={name: str(path) for name, path in models.items()},
        ),
        tfma.writers.MetricsPlotsAndValidationsWriter(results, config),
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
            str(stack.enter_context(plain_folder(as_path(records).parent)) / as_path(records).name),
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
    """Return accuracy, top5 and loss over the whole test split."""
    (overall,) = [values for name, _, values in _read_slices(folder) if not name]
    return {name: overall[name].double_value.value for name in (ACCURACY, TOP5, LOSS)}


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


def describe_failures(result: validation_result_pb2.ValidationResult, baseline: Path | None) -> list[str]:
    """Return one sentence for each threshold that was missed, and for each that could not be checked."""
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
