"""The model card: what an exported model is, what it was made of, how it did, and what follows for its use.

Fields are named as in the Model Card Toolkit's schema, after Mitchell et al. 2019 (arXiv:1810.03993); every sentence
follows from a figure of the run.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from components.backbones.inspect import licence_of
from components.backbones.spec import Spec, has_network
from components.export.export import read_facts
from components.features import SPLITS, VERSION
from components.outcomes import Results
from components.report.card_findings import list_limits, list_metrics
from components.report.measured import Measured
from components.run_dir import MODEL_CARD, RunDir
from components.storage.checksums import READ_BYTES
from components.storage.files import write_json
from components.storage.tables import scan_csv
from components.terminal.text import join_names


class ImageCounts(NamedTuple):
    """The images of images.csv by class and split, and the SHA-256 of that file."""

    by_class: Mapping[tuple[str, str], int]
    sha256: str


def write_card(
    results: Results, measured: Measured, specs: Sequence[Spec], config: Mapping[str, Any], run: RunDir
) -> dict[str, Any]:
    """Complete export/<version>/model_card.json with what was found and measured; return it; raises DamagedFile."""
    path = results.export.folder(run) / MODEL_CARD
    facts = read_facts(path.parent)
    digest = hashlib.sha256()
    with run.images.open("rb") as file:
        while block := file.read(READ_BYTES):
            digest.update(block)
    by_class = Counter((row["label"], row["split"]) for row in scan_csv(run.images))
    card = build_card(results, measured, specs, config, facts, ImageCounts(by_class, digest.hexdigest()))
    write_json(path, card)
    return card


def build_card(
    results: Results,
    measured: Measured,
    specs: Sequence[Spec],
    config: Mapping[str, Any],
    facts: Mapping[str, Any],
    counts: ImageCounts,
) -> dict[str, Any]:
    """Return the card; config is the run's as run.json holds it, facts are the export's own."""
    examples, audit, evaluation, version = results.examples, results.audit, results.evaluation, results.export.version
    place = config["data"]["path"] or config["data"]["source"]
    places = [place] if isinstance(place, str) else list(place)
    labels = examples.labels
    backbones = [
        {"name": spec.title, "source": spec.name or spec.keras or spec.hub or spec.frozen_graph or spec.bottlenecks}
        for spec in specs
    ]
    licences = [licence_of(spec) for spec in specs]
    found = {name: getattr(examples, name) for name in ("found", "written", "rejected", "duplicates")}
    data = {
        "source": places,
        "images_csv_sha256": counts.sha256,
        **found,
        "label_conflicts": examples.label_conflicts,
        "splits": examples.splits,
        "classes": {label: {split: counts.by_class.get((label, split), 0) for split in SPLITS} for label in labels},
        "near_duplicates": audit.near_duplicates,
        "leaks": audit.leaks,
        "test_images_like_training": measured.leaked,
        "suspicious_labels": audit.suspicious,
    }
    images = all(has_network(spec) for spec in specs)
    return {
        **facts,
        "model_details": {
            "name": config["name"],
            "overview": f"Tells images of {len(labels)} classes apart: a head on the backbone "
            f"{facts['backbone']['name']}, trained on {examples.splits['train']:,} images.",
            # A version is the second in which it was exported, or the next after it.
            "version": {
                "name": version,
                "date": datetime.fromtimestamp(int(version), UTC).isoformat(),
            },
            "software": f"topgraft {VERSION}",
        },
        "model_parameters": {
            "backbone": [
                {**backbone, "licence": licence} for backbone, licence in zip(backbones, licences, strict=True)
            ],
            "training": {key: config[key] for key in ("seed", "head", "train", "augment")},
            "data": data,
            "input_format": "encoded JPEG, PNG, GIF or BMP images" if images else "bottlenecks of the backbone",
            "output_format": f"a probability for each of {len(labels)} classes",
        },
        "quantitative_analysis": {
            "performance_metrics": list(list_metrics(measured, labels)),
            **measured.reliability.summary(),
            "accuracy_without_images_like_training": measured.accuracy_without_leaks,
            "thresholds": {key: value for key, value in config["evaluate"]["thresholds"].items() if value is not None},
            "verdict": evaluation.verdict,
            "gated": evaluation.gated,
            "blessed": evaluation.blessed,
            "reasons": list(evaluation.reasons),
            "baseline": evaluation.baseline or None,
        },
        "considerations": {
            "use_cases": [f"One of {len(labels)} classes for an image: {join_names(labels)}."],
            "limitations": list(list_limits(places, facts, results, counts.by_class, measured, images)),
        },
    }
