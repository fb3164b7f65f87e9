import csv

import apache_beam as beam
import numpy as np
import pytest
import tensorflow_model_analysis as tfma

from components import features
from components.evaluate import prediction_table
from components.evaluate.prediction_table import join_predictions, write_prediction_parts

LABELS = ["cat", "dog", "=cmd"]


def make_extracts(keys, model):
    """Return what TFMA hands on for test images: features as it has them, and probabilities that tell them apart."""
    random = np.random.default_rng(3)
    for key in keys:
        probabilities = random.dirichlet([1, 1, 1]).astype(np.float32)
        predicted = {features.PROBABILITIES: probabilities}
        named = {features.KEY: key, features.TEXT: "dog", features.SOURCE: "a,b", features.SHA256: f"sha {key}"}
        yield {
            tfma.FEATURES_KEY: {
                name: np.array([text.encode("utf-8", "surrogateescape")]) for name, text in named.items()
            },
            tfma.PREDICTIONS_KEY: {model: predicted, "baseline": {}} if model else predicted,
        }


@pytest.mark.parametrize("model", ["", "candidate"])
@pytest.mark.parametrize("rows_per_part", [1000, 7])
def test_parts_of_whatever_number_make_one_table_in_order_of_key(tmp_path, monkeypatch, options, model, rows_per_part):
    monkeypatch.setattr(prediction_table, "ROWS_PER_PART", rows_per_part)
    keys = [f"{label}/{number}.jpg" for label in ("dog", "=x", "'y", "é", "z\udcff", "z~") for number in range(9)]
    extracts = [*make_extracts(keys, model)]
    table = tmp_path / "predictions.csv"
    with beam.Pipeline(options=options) as pipeline:
        made = pipeline | beam.Create(extracts)
        assert made | write_prediction_parts(model, LABELS, table, len(keys)) == {}
    parts = len(list(tmp_path.iterdir()))
    assert (parts == 1) == (rows_per_part == 1000)
    join_predictions(table)
    assert list(tmp_path.iterdir()) == [table]
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    # Names that a spreadsheet would take for formulas are guarded, bytes that are no Unicode escaped.
    names = [row["path"].removeprefix("'") if row["path"].startswith(("'=", "''")) else row["path"] for row in rows]
    assert names == sorted(key.encode("utf-8", "backslashreplace").decode() for key in keys)
    by_name = {
        key.encode("utf-8", "backslashreplace").decode(): extract for key, extract in zip(keys, extracts, strict=True)
    }
    for name, row in zip(names, rows, strict=True):
        predicted = by_name[name][tfma.PREDICTIONS_KEY]
        probabilities = (predicted[model] if model else predicted)[features.PROBABILITIES]
        assert float(row["probability"]) == pytest.approx(probabilities.max(), abs=1e-6)
        assert (int(row["index"]), row["actual"], row["source"]) == (probabilities.argmax(), "dog", "a,b")
        assert row["sha256"] == f"sha {name}"
