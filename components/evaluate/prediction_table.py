"""Write the predictions that TFMA measures as a table sorted by key: workers write parts, the command joins them."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import apache_beam as beam
import tensorflow_model_analysis as tfma

from components import features
from components.predict.predict import prediction_columns, prediction_row
from components.shards.spans import assign_shard
from components.storage.tables import decode_name, scan_csv, write_csv

# Rows that a worker sorts in memory, about 1 kB each.
ROWS_PER_PART = 100_000


@beam.ptransform_fn
def write_prediction_parts(
    extracts: beam.PCollection, model: str, labels: Sequence[str], table: Path, images: int
) -> dict[str, beam.PCollection]:
    """Write one model's predictions for the test images in TFMA's extracts to parts of a table; return no outputs.

    images is the number of test images, from which follows the number of parts; join_predictions joins the parts.
    """
    parts = math.ceil(images / ROWS_PER_PART)
    _ = (
        extracts
        | "Format predictions" >> beam.Map(_format_prediction, model, labels)
        | "Part predictions" >> beam.WithKeys(lambda row: assign_shard(row[0], parts))
        | "Group predictions" >> beam.GroupByKey()
        | "Write predictions" >> beam.Map(_write_part, table, len(labels))
    )
    return {}


def _write_part(part: tuple[int, Iterable[list[Any]]], table: Path, classes: int) -> None:
    number, rows = part
    columns = [*prediction_columns(classes), "actual", "source", "sha256"]
    write_csv(table.with_name(f"{table.stem}-{number:05d}.csv"), columns, sorted(rows, key=itemgetter(0)))


def join_predictions(table: Path) -> None:
    """Write a table sorted by key from its parts, row by row, and remove the parts."""
    parts = sorted(table.parent.glob(f"{table.stem}-*.csv"))
    columns = [*next(scan_csv(parts[0]))]
    rows = heapq.merge(*(([*row.values()] for row in scan_csv(part)) for part in parts), key=itemgetter(0))
    write_csv(table, columns, rows)
    for part in parts:
        part.unlink()


def _format_prediction(extracts: dict[str, Any], model: str, labels: Sequence[str]) -> list[Any]:
    def text(name: str) -> str:
        return decode_name(extracts[tfma.FEATURES_KEY][name].item())

    predicted = extracts[tfma.PREDICTIONS_KEY]
    probabilities = (predicted[model] if model else predicted)[features.PROBABILITIES]
    facts = map(text, (features.TEXT, features.SOURCE, features.SHA256))
    return [*prediction_row(text(features.KEY), probabilities, labels), *facts]
