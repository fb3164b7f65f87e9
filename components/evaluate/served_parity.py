"""Whether the served model answers images as it answered the bottlenecks by which it was measured.

It computes in TensorFlow in float32; bottlenecks of another engine, or ready-made ones, may differ from its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from components.backbones.prepare import GRAPH_FILE, read_backbone
from components.features import TENSORFLOW
from components.metrics.calibration import confidence_interval
from components.outcomes import Bottlenecks, Examples
from components.predict.predict import BATCH_SIZE, load_export
from components.run_dir import RunDir
from components.shards.image_sample import SampledImage, sample_images
from components.storage.tables import scan_csv

MOST_IMAGES = 200
# The fraction of images that must keep their class. A choice without a published source: accuracy then changes by one
# point at most, as only an image that changes its class can change from right to wrong.
AGREEMENT = 0.99


class Parity(NamedTuple):
    """Over some test images: how many keep their class, and the largest change of the probability that this had."""

    images: int
    agreeing: int
    probability_change: float

    def describe_failure(self) -> list[str]:
        """Return a sentence where fewer agree than AGREEMENT asks for, beyond chance: by the 95 % interval."""
        if confidence_interval(self.agreeing, self.images)[1] >= AGREEMENT:
            return []
        return [
            f"the served model gives {self.agreeing} of {self.images} test images the class that it was measured with, "
            f"{AGREEMENT:.0%} is asked for: its bottlenecks are not those that were measured, so set extract.engine to "
            f"{TENSORFLOW} or check the ready-made ones"
        ]


def measure_parity(
    examples: Examples, bottlenecks: Bottlenecks, run: RunDir, export: Path, predictions: Path
) -> Parity | None:
    """Put test images through an export and compare with predictions.csv; None where both compute alike, or it cannot.

    Raises DamagedShard for a damaged file.
    """
    folder = run.backbones / bottlenecks.backbone_id
    if not (folder / GRAPH_FILE).exists():  # it serves no images
        return None
    ready_made = not read_backbone(folder).source
    if bottlenecks.engine == TENSORFLOW and not ready_made:
        return None
    sample = sample_images(run.examples, ["test"], examples.shards, MOST_IMAGES)
    return compare_answers(sample, export, predictions)


def compare_answers(sample: Sequence[SampledImage], export: Path, predictions: Path) -> Parity:
    """Return how an export's answers to images agree with those of a table of predictions, which has each of them."""
    wanted = {image.key for image in sample}
    measured = {row["path"]: row for row in scan_csv(predictions) if row["path"] in wanted}
    classifier = load_export(export)
    agreeing, changes = 0, []
    for start in range(0, len(sample), BATCH_SIZE):
        batch = sample[start : start + BATCH_SIZE]
        answers = classifier.compute([image.encoded for image in batch])
        for image, answer in zip(batch, answers, strict=True):
            row = measured[image.key]
            index = int(row["index"])
            agreeing += int(np.argmax(answer.probabilities)) == index
            changes.append(abs(float(answer.probabilities[index]) - float(row["probability"])))
    return Parity(len(sample), agreeing, max(changes))
