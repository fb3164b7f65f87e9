import json
import shutil

import numpy as np
import pytest
import tensorflow_data_validation as tfdv
from google.protobuf import text_format
from PIL import Image
from tensorflow_metadata.proto.v0 import schema_pb2, statistics_pb2
from toys import ingest, paint_images

from components.errors import UserError
from components.features import ENCODED, SPLITS, TEXT
from components.run_dir import RunDir
from components.validate.schema import SIZE_CLASS, infer_schema
from components.validate.settings import Gate
from components.validate.validate import STATISTICS_FILE, load_statistics, validate_examples


@pytest.fixture(scope="module")
def ingested(tmp_path_factory, options):
    folder = tmp_path_factory.mktemp("validate")
    run = RunDir(folder / "run")
    return run, ingest(paint_images(folder / "data", per_class=140), run, options)


def test_statistics_schema_and_anomalies_are_written(ingested, options):
    run, examples = ingested
    assert validate_examples(examples, run, Gate(split_skew=0.5), options).warnings == []
    statistics = load_statistics(run.validation / STATISTICS_FILE)
    assert {split: found.datasets[0].num_examples for split, found in statistics.items()} == examples.splits
    schema = tfdv.load_schema_text(str(run.validation / "schema.pbtxt"))
    assert ENCODED not in {feature.name for feature in schema.feature}
    assert list(tfdv.get_domain(schema, "image/class/text").value) == ["cyan", "magenta", "yellow"]
    assert set(json.loads((run.validation / "anomalies.json").read_text())) == {"train", "val", "test"}


def test_statistics_of_a_split_are_those_that_tfdv_computes_of_its_files_alone(ingested, options, tmp_path):
    run, examples = ingested
    validate_examples(examples, run, Gate(), options)
    for split, found in load_statistics(run.validation / STATISTICS_FILE).items():
        alone = tfdv.generate_statistics_from_tfrecord(str(run.examples / f"{split}-*.tfrecord"))
        (expected,), (data,) = alone.datasets, found.datasets
        here = {feature.path.step[0]: feature for feature in data.features}
        there = {feature.path.step[0]: feature for feature in expected.features}
        assert here.keys() ^ there.keys() == {SIZE_CLASS, ENCODED}
        assert all(here[name] == there[name] for name in here.keys() & there.keys())


def test_a_schema_of_an_earlier_version_that_has_the_images_is_still_good(ingested, options, tmp_path):
    run, examples = ingested
    validate_examples(examples, run, Gate(split_skew=0.5), options)
    schema = tfdv.load_schema_text(str(run.validation / "schema.pbtxt"))
    images = schema.feature.add(name=ENCODED, type=schema_pb2.BYTES)
    images.presence.min_fraction = 1.0
    images.image_domain.minimum_supported_image_fraction = 1.0
    (tmp_path / "schema.pbtxt").write_text(text_format.MessageToString(schema))
    gate = Gate(split_skew=0.5, schema_path=tmp_path / "schema.pbtxt")
    assert validate_examples(examples, run, gate, options).warnings == []


def test_a_class_that_the_schema_lacks_stops_the_run(ingested, options, tmp_path):
    run, examples = ingested
    validate_examples(examples, run, Gate(split_skew=0.5), options)
    schema = tfdv.load_schema_text(str(run.validation / "schema.pbtxt"))
    tfdv.get_domain(schema, "image/class/text").value.remove("yellow")
    (tmp_path / "schema.pbtxt").write_text(text_format.MessageToString(schema))
    with pytest.raises(UserError, match=r"image/class/text.*yellow"):
        validate_examples(examples, run, Gate(schema_path=tmp_path / "schema.pbtxt"), options)


def test_given_splits_that_differ_more_than_allowed_stop_the_run(options, tmp_path):
    for seed, split in enumerate(SPLITS):
        paint_images(tmp_path / "data" / split, per_class=60, seed=seed)
    for file in sorted((tmp_path / "data" / "val" / "cyan").rglob("*.*"))[:55]:
        file.unlink()
    run = RunDir(tmp_path / "run")
    examples = ingest(tmp_path / "data", run, options)
    with pytest.raises(UserError, match=r"anomal.*val split, image/class/text: The Linfty distance"):
        validate_examples(examples, run, Gate(split_skew=0.05), options)
    validation = validate_examples(examples, run, Gate(split_skew=0.05, on_anomaly="warn"), options)
    assert any("val split" in text for text in validation.warnings)
    assert json.loads((run.validation / "anomalies.json").read_text())["val"]["anomalyInfo"]


def count_examples(statistics, **counts):
    """Return a copy of the statistics that says of its splits that they hold so many images."""
    counted = {split: statistics_pb2.DatasetFeatureStatisticsList() for split in statistics}
    for split, found in statistics.items():
        counted[split].CopyFrom(found)
        counted[split].datasets[0].num_examples = counts.get(split, found.datasets[0].num_examples)
    return counted


def limits(statistics, previous, gate):
    """Return how far the classes may differ from split to split, and from the baseline."""
    feature = tfdv.get_feature(infer_schema(statistics, previous, ["cyan", "magenta", "yellow"], gate), TEXT)
    return (comparator.infinity_norm.threshold for comparator in (feature.skew_comparator, feature.drift_comparator))


def test_chance_is_allowed_for_in_small_splits(ingested, options):
    run, examples = ingested
    validate_examples(examples, run, Gate(), options)
    statistics = load_statistics(run.validation / STATISTICS_FILE)
    for count, low, high in ((20, 0.5, 1), (20_000, 0.1, 0.13)):
        assert all(
            low < limit < high
            for limit in limits(count_examples(statistics, train=count, val=count, test=count), None, Gate())
        )


@pytest.mark.parametrize(("now", "before"), [(5000, 50), (50, 5000), (50, 50), (5000, 5000)])
def test_a_baseline_drawn_from_the_same_images_is_no_drift_whatever_its_size(ingested, options, now, before):
    run, examples = ingested
    validate_examples(examples, run, Gate(), options)
    statistics = load_statistics(run.validation / STATISTICS_FILE)
    counted = count_examples(statistics, train=now, val=now // 4, test=now // 4)
    previous = count_examples(statistics, train=before)["train"]
    _, limit = limits(counted, previous, Gate(drift=0.0))
    random = np.random.default_rng(0)
    draws = [random.multinomial(count, [0.5, 0.3, 0.2], 2000) / count for count in (now, before)]
    differences = draws[0] - draws[1]
    assert np.abs(differences).max() < limit
    assert limit == pytest.approx(4 * differences[:, 0].std(), rel=0.1)  # no wider than it has to be


def test_an_unreadable_schema_is_named(ingested, options, tmp_path):
    run, examples = ingested
    (tmp_path / "schema.pbtxt").write_text("feature {")
    with pytest.raises(UserError, match=r"schema.pbtxt"):
        validate_examples(examples, run, Gate(schema_path=tmp_path / "schema.pbtxt"), options)


def test_data_like_that_of_the_baseline_passes(ingested, options, tmp_path):
    run, examples = ingested
    validate_examples(examples, run, Gate(), options)
    again = RunDir(tmp_path / "again")
    shutil.copytree(run.examples, again.examples)
    assert validate_examples(examples, again, Gate(baseline=run.root), options).warnings == []


def test_drift_from_the_baseline_stops_the_run_or_warns(ingested, options, tmp_path):
    run, examples = ingested
    validate_examples(examples, run, Gate(), options)
    root = paint_images(tmp_path / "data", per_class=140)
    for file in sorted((root / "cyan").rglob("*.*"))[:120]:  # one class shrinks, another appears, the format changes
        file.unlink()
    shutil.copytree(root / "magenta", root / "red")
    shutil.rmtree(root / "magenta")
    later = RunDir(tmp_path / "later")
    grown = ingest(root, later, options)
    with pytest.raises(UserError, match=r"anomal.*image/class/text: The Linfty distance between current and previous"):
        validate_examples(grown, later, Gate(baseline=run.root, drift=0.05), options)
    warnings = validate_examples(grown, later, Gate(baseline=run.root, drift=0.05, on_anomaly="warn"), options).warnings
    assert f"New since '{run.root}': class 'red'." in warnings
    assert f"Vanished since '{run.root}': class 'magenta'." in warnings
    assert any("between current and previous" in warning for warning in warnings)


def test_images_of_other_sizes_are_drift(ingested, options, tmp_path):
    run, examples = ingested
    validate_examples(examples, run, Gate(), options)
    root = paint_images(tmp_path / "data", per_class=140)
    for file in root.rglob("*.*"):
        with Image.open(file) as image:
            image.convert("RGB").resize((240, 180)).save(file.with_suffix(".png"))
        if file.suffix != ".png":
            file.unlink()
    later = RunDir(tmp_path / "later")
    warnings = validate_examples(
        ingest(root, later, options), later, Gate(baseline=run.root, on_anomaly="warn"), options
    ).warnings
    assert all(any(f"image/{name}:" in text for text in warnings) for name in ("size", "format"))


def test_a_baseline_without_statistics_is_named(ingested, options, tmp_path):
    run, examples = ingested
    with pytest.raises(UserError, match=r"validation.baseline"):
        validate_examples(examples, run, Gate(baseline=tmp_path), options)
