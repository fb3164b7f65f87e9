"""The model card: what an exported model is, what it was made of, how it did, and what follows for its use.

Fields are named as in the Model Card Toolkit's schema, after Mitchell et al. 2019 (arXiv:1810.03993); every sentence
follows from a figure of the run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from components.backbones.inspect import licence_of
from components.backbones.spec import Spec, has_network
from components.features import SPLITS, VERSION
from components.report.card_text import list_limits, list_metrics
from components.report.content import Content
from components.terminal.text import join_names


def build_card(content: Content, specs: Sequence[Spec], config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the card of the export; config is the run's as run.json holds it, with the backbones that specs name."""
    examples, version = content.results.examples, content.results.export.version
    place = config["data"]["path"] or config["data"]["source"]
    places = [place] if isinstance(place, str) else list(place)
    origin = f"Measured only on images like those in {join_names(places)}."
    images = all(has_network(spec) for spec in specs)
    trained = examples.splits["train"] + (examples.splits["val"] if content.results.head.refit else 0)
    classes = f"{len(examples.labels)} classes"
    return {
        **content.facts,
        "model_details": {
            "name": config["name"],
            "overview": f"Tells images of {classes} apart: a head on the backbone {content.facts['backbone']['name']}, "
            f"trained on {trained:,} images.",
            # A version is the second in which it was exported, or the next after it.
            "version": {"name": version, "date": datetime.fromtimestamp(int(version), UTC).isoformat()},
            "software": f"topgraft {VERSION}",
        },
        "model_parameters": {
            "backbone": [describe_backbone(spec) for spec in specs],
            "training": {key: config[key] for key in ("seed", "head", "train", "augment")},
            "data": {"source": places, **describe_data(content)},
            "input_format": "encoded JPEG, PNG, GIF or BMP images" if images else "bottlenecks of the backbone",
            "output_format": f"a probability for each of {classes}",
        },
        "quantitative_analysis": describe_quality(content, config["evaluate"]["thresholds"]),
        "considerations": {
            "use_cases": [f"One of {classes} for an image: {join_names(examples.labels)}."],
            "limitations": [origin, *list_limits(content, images)],
        },
    }


def describe_backbone(spec: Spec) -> dict[str, str | None]:
    """Return name, source and licence of a backbone, None for a licence that is not known."""
    source = spec.name or spec.keras or spec.hub or spec.frozen_graph or spec.vit or spec.bottlenecks
    return {"name": spec.title, "source": source, "licence": licence_of(spec)}


def describe_data(content: Content) -> dict[str, Any]:
    """Return how many images there are of each class and split, and what ingest and audit found in them."""
    examples, audit = content.results.examples, content.results.audit
    counted = ("found", "written", "rejected", "duplicates", "label_conflicts", "splits")
    return {
        "images_csv_sha256": content.images_sha256,
        **{name: getattr(examples, name) for name in counted},
        "classes": {label: {split: content.counts[label, split] for split in SPLITS} for label in examples.labels},
        "near_duplicates": audit.near_duplicates,
        "leaks": audit.leaks,
        "test_images_like_training": content.leaked,
        "suspicious_labels": audit.suspicious,
    }


def describe_quality(content: Content, thresholds: Mapping[str, float | None]) -> dict[str, Any]:
    """Return the metrics of the test split, the limits set to them and the verdict."""
    evaluation = content.results.evaluation
    return {
        "performance_metrics": list(list_metrics(content)),
        **content.reliability.summary(),
        "accuracy_without_images_like_training": content.accuracy_without_leaks,
        "thresholds": {key: value for key, value in thresholds.items() if value is not None},
        "verdict": evaluation.verdict,
        "gated": evaluation.gated,
        "blessed": evaluation.blessed,
        "reasons": list(evaluation.reasons),
        "baseline": evaluation.baseline or None,
    }
