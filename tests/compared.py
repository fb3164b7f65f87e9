"""Exports with answers to test images, as a comparison reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from components.compare.predictions import COLUMNS, TEST_PREDICTIONS
from components.storage.tables import write_csv


class Answered(NamedTuple):
    path: str
    sha256: str
    actual: str = "ant"
    label: str = "ant"
    probability: float = 0.5

    @property
    def right(self):
        return self.label == self.actual


def write_export(folder: Path, rows: list[Answered], classes=("ant", "bee", "cat"), name="toy") -> Path:
    """Write the files of an export that a comparison reads, with a SavedModel of 300 bytes."""
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(bytes(100))
    (folder / "variables" / "variables.index").write_bytes(bytes(200))
    backbone = {"name": name, "id": f"{name}-1", "dim": 4}
    facts = {"backbone": backbone, "classes": list(classes), "images": {}, "validation": {}, "abstention": None}
    (folder / "model_card.json").write_text(json.dumps(facts))
    write_csv(folder / TEST_PREDICTIONS, COLUMNS, rows)
    return folder


def draw_answers(
    accuracy: float, images: range = range(300), seed: int = 0, classes=("ant", "bee", "cat")
) -> list[Answered]:
    """Return answers to numbered images, whose class is that of the number, right by chance."""
    random = np.random.default_rng(seed)
    rows = []
    for number in images:
        actual = classes[number % len(classes)]
        label = actual if random.uniform() < accuracy else str(random.choice(classes))
        rows.append(Answered(f"{number:03}.png", f"sha{number}", actual, label, round(random.uniform(0.3, 1), 6)))
    return rows
