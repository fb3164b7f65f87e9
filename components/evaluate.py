"""Evaluate: TFMA on the exported SavedModel, and the blessing that its metrics earn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import tensorflow_model_analysis as tfma
from apache_beam.options.pipeline_options import PipelineOptions

from components.checksums import find_unlike
from components.errors import DamagedFile, UserError
from components.export import list_versions, read_facts
from components.features import MODEL_CARD, Bottlenecks, Evaluation, Examples, Export, RunDir, Work
from components.files import write_json
from components.model_analysis import (
    BASELINE,
    CANDIDATE,
    analyze_model,
    describe_failures,
    make_eval_config,
    read_metrics,
)
from components.ownership import claim_files, replacing_shared_folder
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
    such a model no drop is checked: the rules of TFX's Evaluator. Raises DamagedShard for a damaged file, and UserError
    for a damaged export to compare with.
    """
    candidate = run.exports / export.version
    baseline = find_baseline(run.exports, candidate) if max_accuracy_drop is not None else None
    files = shard_files(bottlenecks.folder(run), "test", examples.shards)
    check_shards(files)
    with replacing_shared_folder(run.evaluation) as folder:
        config = make_eval_config(thresholds, max_accuracy_drop if baseline else None)
        models = {CANDIDATE: candidate, BASELINE: baseline} if baseline else {"": candidate}
        predictions = folder / run.predictions.name
        analyze_model(config, models, files, examples.splits["test"], examples.labels, folder, predictions, options)
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
        claim_files(candidate, [BLESSED])
        write_json(candidate / BLESSED, verdict)
    count = examples.splits["test"]
    return Evaluation(Work(count, computed=count), metrics, not reasons, reasons)


def find_baseline(exports: Path, candidate: Path) -> Path | None:
    """Return the newest blessed export, other than the candidate, with the candidate's backbone and classes.

    Raises UserError where it is damaged: measured against an older one, a worse model might be blessed.
    """

    def card(export: Path) -> tuple[object, object]:
        facts = read_facts(export)
        return facts["backbone"], facts["classes"]

    wanted = card(candidate)

    def admit(export: Path) -> bool:
        try:
            return card(export) == wanted
        except DamagedFile as error:
            raise UserError(_describe_damage(export, MODEL_CARD)) from error

    baseline = find_last_blessed(exports, candidate, admit)
    unlike = baseline and find_unlike(baseline)
    if baseline and unlike:
        raise UserError(_describe_damage(baseline, unlike))
    return baseline


def _describe_damage(export: Path, file: str) -> str:
    return (
        f"The export '{export}', with which the new model is to be compared, is damaged ('{file}' is not as it was "
        f"written): remove its folder and run again, which compares with the one before it."
    )


def find_last_blessed(exports: Path, candidate: Path, admit: Callable[[Path], bool] = lambda _: True) -> Path | None:
    """Return the newest blessed export, other than the candidate, that is admitted."""
    for export in reversed(list_versions(exports)):
        if export != candidate and (export / BLESSED).exists() and admit(export):
            return export
    return None
