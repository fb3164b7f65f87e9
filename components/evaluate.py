"""Evaluate: TFMA on the exported SavedModel, and the blessing that its metrics earn."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
import tensorflow_model_analysis as tfma
from apache_beam.options.pipeline_options import PipelineOptions
from tensorflow_model_analysis.proto import config_pb2, metrics_for_slice_pb2, validation_result_pb2

from components import features
from components.export import list_versions
from components.features import Bottlenecks, Evaluation, Examples, Export, RunDir, Work
from components.files import replacing_folder, write_csv, write_json
from components.predict import prediction_columns, prediction_row
from components.shards import read_bottlenecks, shard_files

CANDIDATE, BASELINE = "candidate", "baseline"
BLESSED, NOT_BLESSED = "BLESSED", "NOT_BLESSED"
TOP_K = 5
BATCH = 1024

# The metrics that run.json states and thresholds may bound; loss is the mean cross entropy.
ACCURACY, TOP5, LOSS = "accuracy", "top5", "loss"


def evaluate_model(
    examples: Examples,
    bottlenecks: Bottlenecks,
    export: Export,
    run: RunDir,
    thresholds: Mapping[str, float],
    max_accuracy_drop: float | None,
    options: PipelineOptions,
) -> Evaluation:
    """Write TFMA's results, predictions.csv and BLESSED or NOT_BLESSED for the test split.

    thresholds bound accuracy and top5 from below and loss from above; max_accuracy_drop bounds how far accuracy may
    fall behind the last blessed model of the same backbone and classes. Without thresholds nothing is blessed, without
    such a model no drop is checked: the rules of TFX's Evaluator.
    """
    candidate = run.exports / export.version
    baseline = find_baseline(run.exports, candidate) if max_accuracy_drop is not None else None
    files = shard_files(bottlenecks.folder(run), "test", examples.shards)
    with replacing_folder(run.evaluation) as folder:
        config = make_eval_config(thresholds, max_accuracy_drop if baseline else None, len(examples.labels))
        models = {CANDIDATE: candidate, BASELINE: baseline} if baseline else {"": candidate}
        _run_tfma(config, models, files, folder, options)
        metrics = read_metrics(folder)
        reasons = describe_failures(tfma.load_validation_result(str(folder)), baseline)
        if not thresholds and max_accuracy_drop is None:
            reasons = ["no thresholds are set under evaluate, so there is nothing to bless it by"]
        verdict = {
            "export": export.version,
            "baseline": baseline and baseline.name,
            "metrics": metrics,
            "reasons": reasons,
        }
        write_json(folder / (NOT_BLESSED if reasons else BLESSED), verdict)
        _write_predictions(folder / run.predictions.name, candidate, examples.labels, files, bottlenecks.dim)
    if not reasons:
        write_json(candidate / BLESSED, verdict)
    count = examples.splits["test"]
    return Evaluation(Work(count, computed=count), metrics, not reasons, reasons)


def find_baseline(exports: Path, candidate: Path) -> Path | None:
    """Return the newest blessed export, other than the candidate, with the candidate's backbone and classes."""

    def card(export: Path) -> tuple[object, object]:
        content = json.loads((export / "model_card.json").read_text(encoding="utf-8"))
        return content["backbone"], content["classes"]

    for export in reversed(list_versions(exports)):
        if export != candidate and (export / BLESSED).exists() and card(export) == card(candidate):
            return export
    return None


def make_eval_config(
    thresholds: Mapping[str, float], max_accuracy_drop: float | None, classes: int
) -> config_pb2.EvalConfig:
    """Return TFMA's configuration; max_accuracy_drop, where given, asks for a baseline model."""

    def metric(class_name: str, **settings: object) -> config_pb2.MetricConfig:
        # On the metric, not on the specification: TFMA takes those for metrics computed in the graph.
        bound = bounds.get(str(settings.get("name")))
        per_slice = [config_pb2.PerSliceMetricThreshold(slicing_specs=[overall], threshold=bound)] if bound else []
        return config_pb2.MetricConfig(
            class_name=class_name, config=json.dumps(settings), per_slice_thresholds=per_slice
        )

    bounds: dict[str, config_pb2.MetricThreshold] = {}
    for name, bound in thresholds.items():
        side = {"upper_bound": {"value": bound}} if name == LOSS else {"lower_bound": {"value": bound}}
        bounds[name] = config_pb2.MetricThreshold(value_threshold=config_pb2.GenericValueThreshold(**side))
    if max_accuracy_drop is not None:
        change = bounds.setdefault(ACCURACY, config_pb2.MetricThreshold()).change_threshold
        change.direction = config_pb2.MetricDirection.HIGHER_IS_BETTER
        change.absolute.value = -max_accuracy_drop
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
    metrics = [
        metric("ExampleCount"),
        metric("SparseCategoricalAccuracy", name=ACCURACY),
        metric("SparseTopKCategoricalAccuracy", name=TOP5, k=min(TOP_K, classes)),
        metric("SparseCategoricalCrossentropy", name=LOSS),
        # A threshold of 0 gives the plain confusion matrix; the default 0.5 would set unsure examples apart.
        metric("MultiClassConfusionMatrixAtThresholds", thresholds=[0.0]),
    ]
    return config_pb2.EvalConfig(
        model_specs=models,
        metrics_specs=[config_pb2.MetricsSpec(metrics=metrics)],
        slicing_specs=[
            overall,
            config_pb2.SlicingSpec(feature_keys=[features.TEXT]),
            config_pb2.SlicingSpec(feature_keys=[features.SOURCE]),
        ],
    )


def _run_tfma(
    config: config_pb2.EvalConfig, models: Mapping[str, Path], files: list[str], folder: Path, options: PipelineOptions
) -> None:
    loaders = [
        tfma.default_eval_shared_model(str(path), model_name=name, eval_config=config) for name, path in models.items()
    ]
    pattern = files[0].replace("-00000-of-", "-*-of-")
    tfma.run_model_analysis(loaders, config, pattern, output_path=str(folder), pipeline_options=options)


def _read_slices(folder: Path) -> list[tuple[str, str, dict[str, metrics_for_slice_pb2.MetricsForSlice]]]:
    slices = []
    for entry in tfma.load_metrics(str(folder)):
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
    for at_threshold in overall[
        "multi_class_confusion_matrix_at_thresholds"
    ].multi_class_confusion_matrix_at_thresholds.matrices:
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


def _write_predictions(path: Path, model: Path, labels: Sequence[str], files: list[str], dim: int) -> None:
    table = read_bottlenecks(files, dim)
    predict = tf.saved_model.load(str(model)).signatures[features.BOTTLENECK_SIGNATURE]
    starts = range(0, len(table.keys), BATCH)
    batches = [
        predict(bottleneck=tf.constant(table.vectors[start : start + BATCH]))[features.PROBABILITIES]
        for start in starts
    ]
    probabilities = np.concatenate(batches)
    order = sorted(range(len(table.keys)), key=table.keys.__getitem__)
    columns = [*prediction_columns(len(labels)), "actual", "source"]
    rows = [
        [*prediction_row(table.keys[row], probabilities[row], labels), table.texts[row], table.sources[row]]
        for row in order
    ]
    write_csv(path, columns, rows)
