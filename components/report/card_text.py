"""The text of the model card: its metrics, the limits of use that follow from the run's figures, its sections."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import binom, false_discovery_control  # type: ignore[import-untyped]

from components.metrics.calibration import INTERVAL, NEVER_ANSWERS, confidence_interval
from components.metrics.confusion import describe_unanswered
from components.report.content import Content, describe_leaks
from components.terminal.text import join_names

# Below this, even a class without a mistake may be right in fewer than 70 % of cases (0.025 ** (1 / 10) = 0.69).
FEW_IMAGES = 10


class Section(NamedTuple):
    """A part of the card as a person reads it: sentences, then rows of names and values."""

    title: str
    sentences: list[str]
    rows: list[tuple[str, str]]


def list_metrics(content: Content) -> Iterator[dict[str, Any]]:
    """Yield metrics of the test split with 95 % intervals where they are shares: of all, by class, by source."""
    confusion, metrics = content.confusion, content.results.evaluation.metrics
    total, hits = int(confusion.sum()), np.diag(confusion)
    yield _share("accuracy", int(hits.sum()), total)
    yield _share("top5", round(metrics["top5"] * total), total)
    yield {"type": "loss", "value": metrics["loss"], "slice": None, "images": total}
    for index, label in enumerate(content.results.examples.labels):
        yield _share("recall", int(hits[index]), int(confusion[index].sum()), {"class": label})
        yield _share("precision", int(hits[index]), int(confusion[:, index].sum()), {"class": label})
    for source, row in sorted(content.sources.items()):
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


def list_limits(content: Content, images: bool) -> Iterator[str]:
    """Yield a sentence for each limit of use but that of the images' origin; images tells whether it takes some."""
    examples, audit, confusion = content.results.examples, content.results.audit, content.confusion
    if images:
        yield (
            "It takes JPEG, PNG, GIF and BMP of 24 or 32 bits; topgraft predict turns WebP, TIFF and other BMPs into "
            "PNG for it. It refuses 16-bit images that use less than a quarter of their range."
        )
        yield "It applies no colour profile, and of animations it sees the first frame."
    else:
        dim = content.facts["backbone"]["dim"]
        yield f"It takes bottlenecks of {dim} numbers, no images: its run named no network."
    abstention = content.facts["abstention"]
    if abstention is None:
        yield "It answers one of its classes for any image, also for one that shows none of them."
    elif abstention["threshold"] == NEVER_ANSWERS:
        yield f"It abstains always: no threshold reached a precision of {abstention['wanted']:g} in validation."
    else:
        first = " with the head before it was trained on these too" if content.results.head.refit else ""
        yield (
            f"It abstains below a probability of {abstention['threshold']:.4f}, chosen on {abstention['images']:,} "
            f"validation images{first}; an image that shows none of its classes may lie above."
        )
    few = [label for label in examples.labels if content.counts[label, "test"] < FEW_IMAGES]
    if few:
        yield f"Not measured well, with fewer than {FEW_IMAGES} test images: {join_names(few)}."
    weak = [examples.labels[index] for index in find_weak_classes(confusion)]
    if weak:
        yield f"Recognised less often than images are on the whole, beyond chance: {join_names(weak)}."
    yield from describe_unanswered(confusion, examples.labels)
    yield from describe_leaks(content)
    yield from audit.warnings
    if audit.leaks > content.leaked:
        yield f"Pairs of near-duplicates in two splits: {audit.leaks:,}."
    if examples.duplicates:
        yield f"Exact copies among the images found: {examples.duplicates:,}."
    if examples.label_conflicts:
        yield f"Images that stand under two classes: {examples.label_conflicts:,}."
    if audit.suspicious:
        yield f"Labels that a model which has not seen the image contradicts: {audit.suspicious:,}."
    if examples.rejected:
        yield f"Files left out as they are no usable images: {examples.rejected:,} of {examples.found:,}."


def find_weak_classes(confusion: np.ndarray) -> np.ndarray:
    """Return the classes, int64[K], that are recognised less often than images on the whole, beyond chance.

    Of all classes that are named, a share of 5 % at most is expected to be named by chance alone, however many there
    are: exact binomial tests, corrected as Benjamini and Hochberg do (J. R. Stat. Soc. B 57, 1995).
    """
    actual, hits = confusion.sum(1), np.diag(confusion)
    there = np.flatnonzero(actual)
    chances = binom.cdf(hits[there], actual[there], hits.sum() / max(actual.sum(), 1))
    return there[false_discovery_control(chances) <= 1 - INTERVAL]


def describe_card(card: Mapping[str, Any]) -> list[Section]:
    """Return the sections of a card of build_card for a page, in the order in which they are read."""
    details, parameters = card["model_details"], card["model_parameters"]
    analysis, considerations = card["quantitative_analysis"], card["considerations"]
    data, metrics = parameters["data"], analysis["performance_metrics"]
    reasons = "; ".join(analysis["reasons"])
    verdict = f"{analysis['verdict'].capitalize()}{f': {reasons}' if reasons else ''}."
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
            [f"Images from {join_names(data['source'])}."],
            [*counts, *((f"{split} images", f"{count:,}") for split, count in data["splits"].items())],
        ),
        Section(
            "Test split",
            ["Shares are given with their 95 % intervals (Clopper and Pearson)."],
            [(_name_metric(metric), _format_metric(metric)) for metric in metrics],
        ),
    ]


def _name_metric(metric: Mapping[str, Any]) -> str:
    part = "".join(f", {feature} {value or '(none)'}" for feature, value in (metric["slice"] or {}).items())
    return f"{metric['type']}{part}"


def _format_metric(metric: Mapping[str, Any]) -> str:
    if metric["value"] is None:
        return "not measured"
    if "confidence_interval" not in metric:
        return f"{metric['value']:.4f}"
    low, high = (metric["confidence_interval"][bound] for bound in ("lower_bound", "upper_bound"))
    return f"{metric['value']:.1%} ({low:.1%} to {high:.1%}) of {metric['images']:,} images"
