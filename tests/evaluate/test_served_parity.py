import json
from dataclasses import replace

import pytest
from scipy.stats import binomtest

from components.evaluate.served_parity import Parity, compare_answers, measure_parity
from components.export.versions import list_versions
from components.features import OPENVINO_BF16, TENSORFLOW
from components.outcomes import Bottlenecks, Examples, Work
from components.run_dir import RunDir
from components.shards.image_sample import sample_images
from components.storage.tables import read_csv, write_csv


def read_outcome(run, stage, kind):
    values = json.loads((run.stages / f"{stage}.json").read_text())["outcome"]
    return kind(**{**values, "work": Work(**values["work"])})


@pytest.fixture
def measured(toy_run):
    (export,) = list_versions(toy_run.exports)
    return read_outcome(toy_run, "ingest", Examples), read_outcome(toy_run, "extract", Bottlenecks), toy_run, export


def test_only_what_may_differ_is_compared(measured, tmp_path):
    examples, bottlenecks, run, export = measured
    assert bottlenecks.engine == TENSORFLOW
    assert measure_parity(examples, bottlenecks, run, export, run.predictions) is None
    other = replace(bottlenecks, engine=OPENVINO_BF16)
    parity = measure_parity(examples, other, run, export, run.predictions)
    assert parity.images == parity.agreeing == examples.splits["test"] and parity.probability_change < 1e-5
    without_network = RunDir(tmp_path)
    assert measure_parity(examples, other, without_network, export, run.predictions) is None


def test_images_that_change_their_class_or_its_probability_are_found(measured, tmp_path):
    examples, _, run, export = measured
    sample = sample_images(run.examples, ["test"], examples.shards, 200)

    def compare(change):
        rows = read_csv(run.predictions)
        for row in rows[:3]:
            row.update(change(row))
        write_csv(tmp_path / "table.csv", list(rows[0]), [list(row.values()) for row in rows])
        return compare_answers(sample, export, tmp_path / "table.csv")

    images = examples.splits["test"]
    assert compare(lambda row: {"index": str((int(row["index"]) + 1) % 3)}).agreeing == images - 3
    other = compare(lambda row: {"probability": str(float(row["probability"]) - 0.25)})
    assert other == Parity(images, images, pytest.approx(0.25, abs=1e-5))
    with pytest.raises(KeyError):  # a table that lacks a test image is not that of these images
        compare(lambda row: {"path": "another"})


@pytest.mark.parametrize(("images", "agreeing"), [(200, 200), (200, 195), (200, 194), (3, 2), (3, 0), (50, 47)])
def test_a_model_is_refused_only_where_fewer_agree_than_chance_explains(images, agreeing):
    sentences = Parity(images, agreeing, 0.0).describe_failure()
    assert bool(sentences) == (binomtest(agreeing, images).proportion_ci().high < 0.99)
    for sentence in sentences:
        assert f"{agreeing} of {images} test images" in sentence and "99% is asked for" in sentence
