"""Check that the served model predicts the same classes as evaluation did from stored bottlenecks.

The served model computes in float32 in TensorFlow; ready-made bottlenecks and those of another engine may differ.
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
from components.predict.predict import PREDICTION_BATCH, load_export
from components.run_dir import RunDir
from components.shards.image_sample import SampledImage, sample_images
from components.storage.tables import scan_csv

PARITY_IMAGES = 200
# Fraction of images that must keep their class; our choice. It bounds the change of accuracy by one point, as only an
# image with another class can change from right to wrong.
MIN_AGREEMENT = 0.99


class Parity(NamedTuple):
    """Number of test images, of those that keep their class, and the largest change of that class's probability."""

    images: int
    agreeing: int
    probability_change: float

    def describe_failure(self) -> list[str]:
        """Return one sentence if the 95 % interval of the agreement is below MIN_AGREEMENT, else nothing."""
        if confidence_interval(self.agreeing, self.images)[1] >= MIN_AGREEMENT:
            return []
        return [
            f"the served model gives {self.agreeing} of {self.images} test images the class that it was measured with, "
            f"{MIN_AGREEMENT:.0%} is asked for: its bottlenecks differ from the measured ones, so set "
            f"extract.engine to {TENSORFLOW} or check the ready-made bottlenecks"
        ]


def measure_parity(
    examples: Examples, bottlenecks: Bottlenecks, run: RunDir, export: Path, predictions: Path
) -> Parity | None:
    """Compare an export's answers to test images with predictions.csv; None where no difference is possible.

    Also None for an export that takes bottlenecks only. Raises DamagedShard for a damaged file.
    """
    folder = run.backbones / bottlenecks.backbone_id
    if not (folder / GRAPH_FILE).exists():  # the export serves no images
        return None
    ready_made = not read_backbone(folder).source
    if bottlenecks.engine == TENSORFLOW and not ready_made:
        return None
    sample = sample_images(run.examples, ["test"], examples.shards, PARITY_IMAGES)
    return compare_answers(sample, export, predictions)


def compare_answers(sample: Sequence[SampledImage], export: Path, predictions: Path) -> Parity:
    """Return the agreement of an export's answers to images with a table of predictions that has every image."""
    wanted = {image.key for image in sample}
    measured = {row["path"]: row for row in scan_csv(predictions) if row["path"] in wanted}
    classifier = load_export(export)
    agreeing, changes = 0, []
    for start in range(0, len(sample), PREDICTION_BATCH):
        batch = sample[start : start + PREDICTION_BATCH]
        answers = classifier.compute([image.encoded for image in batch])
        for image, answer in zip(batch, answers, strict=True):
            row = measured[image.key]
            index = int(row["index"])
            agreeing += int(np.argmax(answer.probabilities)) == index
            changes.append(abs(float(answer.probabilities[index]) - float(row["probability"])))
    return Parity(len(sample), agreeing, max(changes))
