"""The model card: what an exported model is, what it was made of, how it did, and what follows for its use.

Fields are named as in the Model Card Toolkit's schema, after Mitchell et al. 2019 (arXiv:1810.03993); every sentence
follows from a figure of the run.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, NamedTuple

import numpy as np

from components import features
from components.backbone_catalog import licence_of
from components.calibration import NEVER_ANSWERS, Abstention, confidence_interval
from components.catalog import Spec, has_network
from components.data_health import accuracy_of, leaked_tests
from components.evaluate import BLESSED, NOT_BLESSED
from components.features import MODEL_CARD, SPLITS, Audit, Evaluation, Examples, Export, RunDir
from components.files import write_json
from components.model_analysis import read_confusion, read_slice_metrics
from components.reliability import collect_reliability
from components.tables import read_csv

# What the export itself has written: others read these keys.
FACTS = ("backbone", "classes", "images", "validation", "abstention")
# Below this, even a class without a mistake may be right in fewer than 70 % of cases (0.025 ** (1 / 10) = 0.69).
FEW_IMAGES = 10
NAMES_SHOWN = 10

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Origin:
    """What the config says of a model: its name, where its images are, its backbones, and how it was trained."""

    name: str
    software: str
    data: Sequence[str]
    backbones: Sequence[Spec]
    training: Mapping[str, Any]
    thresholds: Mapping[str, float]


class Measured(NamedTuple):
    """The test split: confusion int[C, C], row actual; metrics, also by source; calibration; images like training's."""

    confusion: np.ndarray
    metrics: Mapping[str, float]
    sources: Mapping[str, Mapping[str, float]]
    reliability: Mapping[str, Any]
    leaked: int
    accuracy_without_leaks: float | None


class Section(NamedTuple):
    """A part of the card as a person reads it: sentences, then rows of names and values."""

    title: str
    sentences: list[str]
    rows: list[tuple[str, str]]


def write_card(
    origin: Origin, examples: Examples, audit: Audit, export: Export, evaluation: Evaluation, run: RunDir
) -> dict[str, Any]:
    """Complete export/<version>/model_card.json with what was found and measured; return it."""
    path = export.folder(run) / MODEL_CARD
    written = json.loads(path.read_text(encoding="utf-8"))
    facts = {key: written[key] for key in FACTS}
    verdict_file = run.evaluation / (BLESSED if evaluation.blessed else NOT_BLESSED)
    verdict = json.loads(verdict_file.read_text(encoding="utf-8"))
    predictions = read_csv(run.predictions)
    leaked = leaked_tests(read_csv(run.audit / "near_duplicates.csv"))
    abstention = facts["abstention"] and Abstention(**facts["abstention"])
    measured = Measured(
        read_confusion(run.evaluation, len(examples.labels)),
        evaluation.metrics,
        read_slice_metrics(run.evaluation, features.SOURCE),
        collect_reliability(predictions, abstention).summary(),
        len(leaked),
        accuracy_of(row for row in predictions if row["path"] not in leaked),
    )
    images = read_csv(run.images)
    digest = hashlib.sha256(run.images.read_bytes()).hexdigest()
    counts = Counter((row["label"], row["split"]) for row in images)
    card = build_card(origin, export.version, facts, examples, counts, digest, audit, measured, verdict)
    write_json(path, card)
    return card


def build_card(
    origin: Origin,
    version: str,
    facts: Mapping[str, Any],
    examples: Examples,
    counts: Mapping[tuple[str, str], int],
    digest: str,
    audit: Audit,
    measured: Measured,
    verdict: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the card; facts are the export's own, counts the images by class and split, digest images.csv's sum."""
    labels = examples.labels
    backbones = [
        {"name": spec.title, "source": spec.name or spec.keras or spec.hub or spec.frozen_graph or spec.bottlenecks}
        for spec in origin.backbones
    ]
    licences = [licence_of(spec) for spec in origin.backbones]
    found = {name: getattr(examples, name) for name in ("found", "written", "rejected", "duplicates")}
    data = {
        "source": list(origin.data),
        "images_csv_sha256": digest,
        **found,
        "label_conflicts": examples.label_conflicts,
        "splits": examples.splits,
        "classes": {label: {split: counts.get((label, split), 0) for split in SPLITS} for label in labels},
        "near_duplicates": audit.near_duplicates,
        "leaks": audit.leaks,
        "test_images_like_training": measured.leaked,
        "suspicious_labels": audit.suspicious,
    }
    images = all(has_network(spec) for spec in origin.backbones)
    return {
        **facts,
        "model_details": {
            "name": origin.name,
            "overview": f"Tells images of {len(labels)} classes apart: a head on the backbone "
            f"{facts['backbone']['name']}, trained on {examples.splits['train']:,} images.",
            # A version is the second in which it was exported, or the next after it.
            "version": {
                "name": version,
                "date": datetime.fromtimestamp(int(version), timezone.utc).isoformat(),
            },
            "software": f"topgraft {origin.software}",
        },
        "model_parameters": {
            "backbone": [{**backbone, "licence": licence} for backbone, licence in zip(backbones, licences)],
            "training": dict(origin.training),
            "data": data,
            "input_format": "encoded JPEG, PNG, GIF or BMP images" if images else "bottlenecks of the backbone",
            "output_format": f"a probability for each of {len(labels)} classes",
        },
        "quantitative_analysis": {
            "performance_metrics": list(_measure(measured, labels)),
            **measured.reliability,
            "accuracy_without_images_like_training": measured.accuracy_without_leaks,
            "thresholds": dict(origin.thresholds),
            "blessed": not verdict["reasons"],
            "reasons": list(verdict["reasons"]),
            "baseline": verdict["baseline"],
        },
        "considerations": {
            "use_cases": [f"One of {len(labels)} classes for an image: {_list(labels)}."],
            "limitations": list(_limit(origin, facts, examples, counts, audit, measured, images)),
        },
    }


def _measure(measured: Measured, labels: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield metrics of the test split with 95 % intervals where they are shares: of all, by class, by source."""
    confusion = measured.confusion
    total, hits = int(confusion.sum()), np.diag(confusion)
    yield _share("accuracy", int(hits.sum()), total)
    yield _share("top5", round(measured.metrics["top5"] * total), total)
    yield {"type": "loss", "value": measured.metrics["loss"], "slice": None, "images": total}
    for index, label in enumerate(labels):
        yield _share("recall", int(hits[index]), int(confusion[index].sum()), {"class": label})
        yield _share("precision", int(hits[index]), int(confusion[:, index].sum()), {"class": label})
    for source, row in sorted(measured.sources.items()):
        yield _share("accuracy", round(row["accuracy"] * row["count"]), int(row["count"]), {"source": source})


def _share(kind: str, hits: int, images: int, part: dict[str, str] | None = None) -> dict[str, Any]:
    low, high = confidence_interval(hits, images)
    return {
        "type": kind,
        "value": hits / images if images else None,
        "slice": part,
        "images": images,
        "confidence_interval": {"lower_bound": low, "upper_bound": high},
    }


def _limit(
    origin: Origin,
    facts: Mapping[str, Any],
    examples: Examples,
    counts: Mapping[tuple[str, str], int],
    audit: Audit,
    measured: Measured,
    images: bool,
) -> Iterator[str]:
    yield f"Measured only on images like those in {_list(origin.data)}."
    if images:
        yield "It takes JPEG, PNG, GIF and BMP; topgraft predict turns WebP and TIFF into PNG for it."
    else:
        yield f"It takes bottlenecks of {facts['backbone']['dim']} numbers, no images: its run named no network."
    abstention = facts["abstention"]
    if abstention is None:
        yield "It answers one of its classes for any image, also for one that shows none of them."
    elif abstention["threshold"] == NEVER_ANSWERS:
        yield f"It abstains always: no threshold reached a precision of {abstention['wanted']:g} in validation."
    else:
        yield (
            f"It abstains below a probability of {abstention['threshold']:.4f}, chosen on {abstention['images']:,} "
            f"validation images; an image that shows none of its classes may lie above."
        )
    few = [label for label in examples.labels if counts.get((label, "test"), 0) < FEW_IMAGES]
    if few:
        yield f"Not measured well, with fewer than {FEW_IMAGES} test images: {_list(few)}."
    confusion = measured.confusion
    overall = np.trace(confusion) / max(confusion.sum(), 1)
    weak = [
        label
        for label, row, hit in zip(examples.labels, confusion, np.diag(confusion))
        if confidence_interval(int(hit), int(row.sum()))[1] < overall
    ]
    if weak:
        yield f"Recognised less often than images are on the whole, beyond chance: {_list(weak)}."
    if measured.leaked:
        without = measured.accuracy_without_leaks
        rest = f", without these the accuracy is {without:.4f}" if without is not None else ""
        yield f"Test images with a near-duplicate in training: {measured.leaked:,}{rest}."
    if audit.leaks > measured.leaked:
        yield f"Pairs of near-duplicates in two splits: {audit.leaks:,}."
    if examples.duplicates:
        yield f"Exact copies among the images found: {examples.duplicates:,}."
    if examples.label_conflicts:
        yield f"Images that stand under two classes: {examples.label_conflicts:,}."
    if audit.suspicious:
        yield f"Labels that a model which has not seen the image contradicts: {audit.suspicious:,}."
    if examples.rejected:
        yield f"Files left out as they are no usable images: {examples.rejected:,} of {examples.found:,}."


def _list(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more


def describe_card(card: Mapping[str, Any]) -> list[Section]:
    """Return the sections of a card of build_card for a page, in the order in which they are read."""
    details, parameters = card["model_details"], card["model_parameters"]
    analysis, considerations = card["quantitative_analysis"], card["considerations"]
    data, metrics = parameters["data"], analysis["performance_metrics"]
    verdict = "Blessed." if analysis["blessed"] else f"Not blessed: {'; '.join(analysis['reasons'])}."
    backbones = [
        (f"backbone {backbone['name']}", backbone["licence"] or "licence not known")
        for backbone in parameters["backbone"]
    ]
    counts = [(name.replace("_", " "), f"{data[name]:,}") for name in ("found", "written", "rejected", "duplicates")]
    return [
        Section(
            "Model",
            [details["overview"], verdict],
            [
                ("name", details["name"]),
                ("version", f"{details['version']['name']}, {details['version']['date']}"),
                ("made by", details["software"]),
                ("backbone id", card["backbone"]["id"]),
                *backbones,
                ("input", parameters["input_format"]),
                ("output", parameters["output_format"]),
            ],
        ),
        Section("Intended use", list(considerations["use_cases"]), []),
        Section("Limits", list(considerations["limitations"]), []),
        Section(
            "Data",
            [f"Images from {_list(data['source'])}."],
            [*counts, *((f"{split} images", f"{count:,}") for split, count in data["splits"].items())],
        ),
        Section(
            "Test split",
            ["Shares are given with their 95 % intervals (Clopper and Pearson)."],
            [(_name_metric(metric), _format_metric(metric)) for metric in metrics],
        ),
    ]


def _name_metric(metric: Row) -> str:
    part = "".join(f", {feature} {value or '(none)'}" for feature, value in (metric["slice"] or {}).items())
    return f"{metric['type']}{part}"


def _format_metric(metric: Row) -> str:
    if metric["value"] is None:
        return "not measured"
    if "confidence_interval" not in metric:
        return f"{metric['value']:.4f}"
    low, high = (metric["confidence_interval"][bound] for bound in ("lower_bound", "upper_bound"))
    return f"{metric['value']:.1%} ({low:.1%} to {high:.1%}) of {metric['images']:,} images"
