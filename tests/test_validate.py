import json
from dataclasses import replace

import pytest
import tensorflow_data_validation as tfdv
from conftest import paint_images, quiet_progress
from google.protobuf import text_format

from components.errors import UserError
from components.features import RunDir
from components.images import list_images
from components.ingest import ingest_images
from components.validate import infer_schema, validate_examples

SHARES = {"train": 0.5, "val": 0.25, "test": 0.25}


@pytest.fixture(scope="module")
def ingested(tmp_path_factory, options):
    folder = tmp_path_factory.mktemp("validate")
    run = RunDir(folder / "run")
    listing = list_images(paint_images(folder / "data", per_class=140))
    return run, ingest_images(listing, run, 2, SHARES, 0.05, 0, options, quiet_progress())


def test_statistics_schema_and_anomalies_are_written(ingested, options):
    run, examples = ingested
    assert validate_examples(examples, run, 0.5, None, options).warnings == []
    for split, count in examples.splits.items():
        statistics = tfdv.load_statistics(str(run.validation / f"statistics-{split}.tfrecord"))
        assert statistics.datasets[0].num_examples == count
    schema = tfdv.load_schema_text(str(run.validation / "schema.pbtxt"))
    assert tfdv.get_feature(schema, "image/encoded").image_domain.minimum_supported_image_fraction == 1.0
    assert list(tfdv.get_domain(schema, "image/class/text").value) == ["cyan", "magenta", "yellow"]
    assert set(json.loads((run.validation / "anomalies.json").read_text())) == {"train", "val", "test"}


def test_a_class_that_the_schema_lacks_stops_the_run(ingested, options, tmp_path):
    run, examples = ingested
    validate_examples(examples, run, 0.5, None, options)
    schema = tfdv.load_schema_text(str(run.validation / "schema.pbtxt"))
    tfdv.get_domain(schema, "image/class/text").value.remove("yellow")
    (tmp_path / "schema.pbtxt").write_text(text_format.MessageToString(schema))
    with pytest.raises(UserError, match=r"image/class/text.*yellow"):
        validate_examples(examples, run, 0.5, tmp_path / "schema.pbtxt", options)


def test_splits_that_differ_more_than_the_schema_allows_stop_the_run(ingested, options, tmp_path):
    run, examples = ingested
    validate_examples(examples, run, 0.5, None, options)
    schema = tfdv.load_schema_text(str(run.validation / "schema.pbtxt"))
    tfdv.get_feature(schema, "image/class/text").skew_comparator.infinity_norm.threshold = 1e-6
    (tmp_path / "schema.pbtxt").write_text(text_format.MessageToString(schema))
    with pytest.raises(UserError, match=r"anomal.*image/class/text: The Linfty distance"):
        validate_examples(examples, run, 0.5, tmp_path / "schema.pbtxt", options)
    assert json.loads((run.validation / "anomalies.json").read_text())["val"]["anomalyInfo"]


def test_chance_is_allowed_for_in_small_splits(ingested):
    run, examples = ingested
    statistics = tfdv.load_statistics(str(run.validation / "statistics-train.tfrecord"))
    thresholds = []
    for count in (20, 20_000):
        small = replace(examples, splits={"train": count, "val": count, "test": count})
        schema = infer_schema(statistics, small, 0.1)
        thresholds.append(tfdv.get_feature(schema, "image/class/text").skew_comparator.infinity_norm.threshold)
    assert thresholds[0] > 0.5
    assert 0.1 < thresholds[1] < 0.12


def test_an_unreadable_schema_is_named(ingested, options, tmp_path):
    run, examples = ingested
    (tmp_path / "schema.pbtxt").write_text("feature {")
    with pytest.raises(UserError, match=r"schema.pbtxt"):
        validate_examples(examples, run, 0.5, tmp_path / "schema.pbtxt", options)
