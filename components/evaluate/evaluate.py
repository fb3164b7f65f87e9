"""Stage evaluate: measure the exported SavedModel with TFMA, and bless it or not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_model_analysis as tfma
from apache_beam.options.pipeline_options import PipelineOptions

from components.compare.predictions import CHECKSUM, COLUMNS, TEST_PREDICTIONS, count_newly_wrong
from components.errors import DamagedFile, UserError
from components.evaluate.served_parity import measure_parity
from components.evaluate.settings import ModelGate
from components.evaluate.tfma_analysis import (
    BASELINE,
    CANDIDATE,
    analyze_model,
    describe_failures,
    make_eval_config,
    read_confusion,
    read_metrics,
)
from components.export.versions import list_versions, read_facts
from components.metrics.confusion import describe_unanswered, describe_weakest, list_recalls
from components.outcomes import Bottlenecks, Evaluation, Examples, Export, Work
from components.run_dir import BLESSED, MODEL_CARD, RunDir
from components.shards.records import check_count, check_shards, shard_files
from components.storage.checksums import compute_checksum, find_mismatch
from components.storage.files import write_json
from components.storage.ownership import claim_files, replacing_shared_folder
from components.storage.places import remove_file
from components.storage.tables import scan_csv, write_csv
from components.terminal.text import join_names

# The other verdicts, and the names of the files that hold them.
NOT_BLESSED, NOT_GATED = "NOT_BLESSED", "NOT_GATED"
NO_GATE = (
    "no limit is set under evaluate, so nothing was checked: add one to the config, such as evaluate: {thresholds: "
    "{accuracy: 0.9}}"
)


def evaluate_model(
    examples: Examples,
    bottlenecks: Bottlenecks,
    export: Export,
    gate: ModelGate,
    run: RunDir,
    options: PipelineOptions,
) -> Evaluation:
    """Write TFMA's results, predictions.csv and the verdict for the test split; return metrics and verdict.

    The export keeps its predictions too, for later comparisons. Without any limit the verdict is NOT_GATED.
    max_accuracy_drop needs an earlier blessed model of the same backbone and classes, max_newly_wrong one that shares
    test images. Without any other limit and without such a model, the model is blessed without a check, which TFX calls
    rubber-stamped. Raises DamagedShard for a damaged file, and UserError for a damaged earlier export and where the
    measured images are not those of the test split.
    """
    thresholds, max_accuracy_drop = gate.thresholds.given, gate.max_accuracy_drop
    candidate = run.exports / export.version
    baseline = find_baseline(run.exports, candidate) if max_accuracy_drop is not None else None
    unchecked = [] if max_accuracy_drop is None or baseline else [explain_missing_baseline(run.exports, candidate)]
    files = shard_files(bottlenecks.folder(run), "test", examples.shards)
    check_shards(files)
    with replacing_shared_folder(run.evaluation) as folder:
        config = make_eval_config(thresholds, max_accuracy_drop if baseline else None)
        models = {CANDIDATE: candidate, BASELINE: baseline} if baseline else {"": candidate}
        predictions, count = folder / run.predictions.name, examples.splits["test"]
        analyze_model(config, models, bottlenecks.folder(run), examples, predictions, bool(unchecked), options)
        confusion = read_confusion(folder, len(examples.labels))
        for measured in (int(confusion.sum()), sum(1 for _ in scan_csv(predictions))):
            check_count(measured, count, bottlenecks.folder(run) / "test-*.tfrecord")
        recalls = list_recalls(confusion)
        by_class = {"mean_class_accuracy": float(recalls.mean()), "min_class_recall": float(recalls.min())}
        metrics = {**read_metrics(folder), **by_class}
        reasons = describe_failures(tfma.load_validation_result(str(folder)), baseline)
        for name, value in by_class.items():  # TFMA has no such metrics
            if value < thresholds.get(name, 0):
                detail = f" ({describe_weakest(confusion, examples.labels)})" if name == "min_class_recall" else ""
                reasons.append(f"{name} is {value:.4f}{detail}, at least {thresholds[name]:g} was asked for")
        parity = measure_parity(examples, bottlenecks, run, candidate, predictions)
        reasons += parity.describe_failure() if parity else []
        limit, newly_wrong = gate.max_newly_wrong, None
        if limit is not None:
            newly_wrong, sentence = count_newly_wrong(predictions, find_last_blessed(run.exports, candidate))
            if newly_wrong is None:
                unchecked.append(sentence)
            elif newly_wrong["lost"] / newly_wrong["images"] > limit:
                reasons.append(f"{sentence}, max_newly_wrong allows {limit:g}")
        gated = gate.is_set
        blessed = gated and not reasons
        checked = bool(thresholds or baseline or newly_wrong)
        if not checked:
            reasons += unchecked if gated else [NO_GATE]
        warnings = describe_unanswered(confusion, examples.labels)
        warnings += [f"{sentence}." for sentence in unchecked if checked]
        verdict = {
            "export": export.version,
            "baseline": baseline and baseline.name,
            "metrics": metrics,
            "reasons": reasons,
            "served": parity and parity._asdict(),
            "newly_wrong": newly_wrong,
        }
        write_json(folder / (BLESSED if blessed else NOT_BLESSED if gated else NOT_GATED), verdict)
    claim_files(candidate, [BLESSED, TEST_PREDICTIONS])
    remove_file(candidate / BLESSED)  # an evaluation with lower limits may have blessed it
    kept = ([row[name] for name in COLUMNS] for row in scan_csv(run.predictions))
    write_csv(candidate / TEST_PREDICTIONS, COLUMNS, kept)
    if blessed:
        write_json(candidate / BLESSED, {**verdict, CHECKSUM: compute_checksum(candidate / TEST_PREDICTIONS)})
    former = baseline.name if baseline else ""
    return Evaluation(Work(count, computed=count), metrics, gated, blessed, reasons, former, warnings)


def find_baseline(exports: Path, candidate: Path) -> Path | None:
    """Return the newest other blessed export with the candidate's backbone and classes, or None.

    Raises UserError where it is damaged: a comparison with an older one might bless a worse model.
    """
    wanted = _read_kind(candidate)
    for export in _list_blessed(exports, candidate):
        try:
            if _read_kind(export) != wanted:
                continue
            damaged = find_mismatch(export)
        except DamagedFile:
            damaged = MODEL_CARD
        if damaged:
            raise UserError(
                f"The export '{export}', the baseline of the new model, is damaged ('{damaged}' has changed since the "
                f"export): remove its folder and run again, which compares with the export before it."
            )
        return export
    return None


def explain_missing_baseline(exports: Path, candidate: Path) -> str:
    """Return a sentence that says why max_accuracy_drop has no blessed export to compare the candidate with."""
    former = find_last_blessed(exports, candidate)
    if not former:
        return "max_accuracy_drop was not checked, as there is no earlier blessed model in this run directory"
    (backbone, classes), (old_backbone, old_classes) = _read_kind(candidate), _read_kind(former)
    differences = []
    if backbone != old_backbone:
        differences.append(f"another backbone ({old_backbone['name']}, id {old_backbone['id']})")
    if classes != old_classes:
        changes = {
            "new": [f"'{label}'" for label in classes if label not in old_classes],
            "gone": [f"'{label}'" for label in old_classes if label not in classes],
        }
        named = [f"{change}: {join_names(labels)}" for change, labels in changes.items() if labels]
        differences.append(f"other classes ({'; '.join(named)})" if named else "its classes in another order")
    return (
        f"max_accuracy_drop was not checked, as no earlier blessed model has this backbone and these classes: the last "
        f"one, export {former.name}, has {' and '.join(differences)}"
    )


def _read_kind(export: Path) -> tuple[dict[str, Any], list[str]]:
    facts = read_facts(export)
    return facts["backbone"], facts["classes"]


def find_last_blessed(exports: Path, candidate: Path) -> Path | None:
    """Return the newest blessed export other than the candidate, or None."""
    return next(_list_blessed(exports, candidate), None)


def _list_blessed(exports: Path, candidate: Path) -> Iterator[Path]:
    """Return the blessed exports other than the candidate, newest first."""
    return (path for path in reversed(list_versions(exports)) if path != candidate and (path / BLESSED).exists())
