"""Write run.json, the record of a run, whose keys stay stable as scripts read it."""

from __future__ import annotations

import json
from typing import Any

from components.features import VERSION
from components.outcomes import Bottlenecks, Evaluation, Examples
from components.run_dir import RunDir
from components.storage.files import write_json
from components.storage.ownership import claim_files
from pipeline.config import Config
from pipeline.stages import Stages

COUNTS = ("found", "written", "rejected", "duplicates", "label_conflicts")


def write_record(config: Config, run: RunDir, stages: Stages) -> dict[str, Any]:
    """Write and return the record of the stages that have run or were skipped."""
    record: dict[str, Any] = {
        "version": VERSION,
        "config": config.describe(),
        "backbone": {},
        "stages": stages.summary,
        "counts": {},
        "classes": {},
        "metrics": {},
        "verdict": "",
        "gated": config.evaluate.is_set,
        "blessed": False,
        "reasons": [],
        "notes": [text for outcome in stages.outcomes.values() for text in getattr(outcome, "warnings", [])],
    }
    names = ("ingest", "extract", "reextract", "evaluate")
    examples, bottlenecks, tuned, evaluation = (stages.outcomes.get(name) for name in names)
    if isinstance(examples, Examples):
        counts = {name: getattr(examples, name) for name in COUNTS}
        record["counts"] = {**counts, **examples.splits, "classes": len(examples.labels)}
        record["classes"] = examples.images
    if isinstance(bottlenecks, Bottlenecks):
        record["backbone"] = {
            "name": bottlenecks.backbone_name,
            "id": bottlenecks.backbone_id,
            "dim": bottlenecks.dim,
            "engine": bottlenecks.engine,
            "views": bottlenecks.views,
        }
        if isinstance(tuned, Bottlenecks):
            record["backbone"]["fine_tuned"] = {"name": tuned.backbone_name, "id": tuned.backbone_id}
        trials = run.trials(bottlenecks.backbone_id)
        if trials.exists():
            record["backbone"]["trials"] = json.loads(trials.read_text(encoding="utf-8"))["trials"]
    if isinstance(evaluation, Evaluation):
        record.update(metrics=evaluation.metrics, verdict=evaluation.verdict)
        record.update(blessed=evaluation.blessed, reasons=evaluation.reasons)
    claim_files(run.root, [run.record.name])
    write_json(run.record, record)
    return record
