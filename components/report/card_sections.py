"""The model card as a page shows it to a person."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from components.terminal.text import join_names


class Section(NamedTuple):
    """A part of the card as a person reads it: sentences, then rows of names and values."""

    title: str
    sentences: list[str]
    rows: list[tuple[str, str]]


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
