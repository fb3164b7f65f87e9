"""Evaluate: TFMA on the exported SavedModel, and the blessing that its metrics earn."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import tensorflow_model_analysis as tfma
from apache_beam.options.pipeline_options import PipelineOptions

from components.export import list_versions
from components.features import MODEL_CARD, Bottlenecks, Evaluation, Examples, Export, RunDir, Work
from components.files import replacing_shared_folder, write_json
from components.model_analysis import (
    BASELINE,
    CANDIDATE,
    analyze_model,
    describe_failures,
    make_eval_config,
    read_metrics,
)
from components.shards import check_shards, shard_files

BLESSED, NOT_BLESSED = "BLESSED", "NOT_BLESSED"


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
    such a model no drop is checked: the rules of TFX's Evaluator. Raises DamagedShard for a damaged file.
    """
    candidate = run.exports / export.version
    baseline = find_baseline(run.exports, candidate) if max_accuracy_drop is not None else None
    files = shard_files(bottlenecks.folder(run), "test", examples.shards)
    check_shards(files)
    with replacing_shared_folder(run.evaluation) as folder:
        config = make_eval_config(thresholds, max_accuracy_drop if baseline else None)
        models = {CANDIDATE: candidate, BASELINE: baseline} if baseline else {"": candidate}
        analyze_model(config, models, files, examples.labels, folder, folder / run.predictions.name, options)
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
    if reasons:
        (candidate / BLESSED).unlink(missing_ok=True)  # laxer limits may have blessed it before
    else:
        write_json(candidate / BLESSED, verdict)
    count = examples.splits["test"]
    return Evaluation(Work(count, computed=count), metrics, not reasons, reasons)


def find_baseline(exports: Path, candidate: Path) -> Path | None:
    """Return the newest blessed export, other than the candidate, with the candidate's backbone and classes."""

    def card(export: Path) -> tuple[object, object]:
        content = json.loads((export / MODEL_CARD).read_text(encoding="utf-8"))
        return content["backbone"], content["classes"]

    return find_last_blessed(exports, candidate, lambda export: card(export) == card(candidate))


def find_last_blessed(exports: Path, candidate: Path, admit: Callable[[Path], bool] = lambda _: True) -> Path | None:
    """Return the newest blessed export, other than the candidate, that is admitted."""
    for export in reversed(list_versions(exports)):
        if export != candidate and (export / BLESSED).exists() and admit(export):
            return export
    return None
