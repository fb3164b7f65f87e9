"""What a model card finds: the metrics of the test split, and the limits of use that follow from the run's figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import binom, false_discovery_control  # type: ignore[import-untyped]

from components.metrics.calibration import INTERVAL, NEVER_ANSWERS, confidence_interval
from components.metrics.confusion import describe_unanswered
from components.outcomes import Results
from components.report.measured import Measured, describe_leaks
from components.terminal.text import join_names

# Below this, even a class without a mistake may be right in fewer than 70 % of cases (0.025 ** (1 / 10) = 0.69).
FEW_IMAGES = 10


def list_metrics(measured: Measured, labels: Sequence[str]) -> Iterator[dict[str, Any]]:
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


def list_limits(
    places: Sequence[str],
    facts: Mapping[str, Any],
    results: Results,
    counts: Mapping[tuple[str, str], int],
    measured: Measured,
    images: bool,
) -> Iterator[str]:
    """Yield a sentence for each limit of use; places are where the images are, images tells that it takes some."""
    examples, audit = results.examples, results.audit
    yield f"Measured only on images like those in {join_names(places)}."
    if images:
        yield (
            "It takes JPEG, PNG, GIF and BMP of 24 or 32 bits; topgraft predict turns WebP, TIFF and other BMPs into "
            "PNG for it. It refuses 16-bit images that use less than a quarter of their range."
        )
        yield "It applies no colour profile, and of animations it sees the first frame."
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
        yield f"Not measured well, with fewer than {FEW_IMAGES} test images: {join_names(few)}."
    confusion = measured.confusion
    weak = [examples.labels[index] for index in find_weak_classes(confusion)]
    if weak:
        yield f"Recognised less often than images are on the whole, beyond chance: {join_names(weak)}."
    yield from describe_unanswered(confusion, examples.labels)
    yield from describe_leaks(measured)
    yield from audit.warnings
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


def find_weak_classes(confusion: np.ndarray) -> np.ndarray:
    """Return the classes, int64[K], that are recognised less often than images on the whole, beyond chance.

    Of all classes that are named, a share of 5 % at most is expected to be named by chance alone, however many there
    are: exact binomial tests, corrected as Benjamini and Hochberg do (J. R. Stat. Soc. B 57, 1995).
    """
    actual, hits = confusion.sum(1), np.diag(confusion)
    there = np.flatnonzero(actual)
    chances = binom.cdf(hits[there], actual[there], hits.sum() / max(actual.sum(), 1))
    return there[false_discovery_control(chances) <= 1 - INTERVAL]
