import numpy as np
import pytest
import tensorflow as tf
from conftest import SHARES, ingest, paint_images

from components import bottlenecks
from components.backbone import BackboneSession
from components.catalog import parse_backbone
from components.engines import Closeness
from components.features import SPLITS, TENSORFLOW, RunDir
from components.shards import read_bottlenecks, shard_files


def compute(examples, backbone, run, options, progress):
    specs, closeness = parse_backbone(backbone), Closeness(0.999, 0.995)
    return bottlenecks.extract_bottlenecks(examples, specs, TENSORFLOW, closeness, run, options, progress)


@pytest.fixture
def pipeline(tmp_path, toy_backbone, options, progress):
    """Return a function that ingests and extracts, and gives (run, outcome)."""
    run = RunDir(tmp_path / "run")

    def extract(shards=2, shares=SHARES, seed=0):
        examples = ingest(tmp_path / "data", run, options, shards, shares, seed)
        return examples, compute(examples, toy_backbone, run, options, progress)

    paint_images(tmp_path / "data", per_class=20)
    return run, extract


def read_all(run, examples, outcome):
    files = [
        file for split in SPLITS for file in shard_files(run.bottlenecks(outcome.backbone_id), split, examples.shards)
    ]
    return read_bottlenecks(files, outcome.dim)


def test_every_image_gets_the_bottleneck_of_its_bytes(tmp_path, pipeline):
    run, extract = pipeline
    examples, outcome = extract()
    table = read_all(run, examples, outcome)
    session = BackboneSession(run.backbones / outcome.backbone_id)
    expected = session.compute_bottlenecks([(tmp_path / "data" / key).read_bytes() for key in table.keys])
    np.testing.assert_allclose(table.vectors, expected, atol=1e-6)
    assert [examples.labels[label] for label in table.labels] == table.texts
    assert (outcome.work.reused, outcome.work.computed) == (0, 60)


def test_nothing_is_computed_twice(tmp_path, pipeline, monkeypatch):
    run, extract = pipeline
    extract()

    def fail(self, images):
        raise AssertionError("computed again")

    monkeypatch.setattr(BackboneSession, "compute_bottlenecks", fail)
    for settings in (
        {},
        {"shards": 4},
        {"shards": 1},
        {"seed": 5},
        {"shares": {"train": 0.2, "val": 0.2, "test": 0.6}},
    ):
        _, outcome = extract(**settings)
        # A shard is worked on while others of an earlier split or count still lie there, so all is found.
        assert (outcome.work.reused, outcome.work.computed) == (60, 0), settings


def test_only_what_is_new_is_computed(tmp_path, pipeline):
    _, extract = pipeline
    extract()
    paint_images(tmp_path / "data", per_class=22)  # the same first 20 a class, seeded
    _, outcome = extract()
    assert outcome.work.items == 66
    assert outcome.work.computed <= 66 - 20


def test_a_damaged_shard_is_computed_again_and_only_it(pipeline):
    run, extract = pipeline
    examples, outcome = extract()
    before = read_all(run, examples, outcome)
    path = run.bottlenecks(outcome.backbone_id) / "train-00001-of-00002.tfrecord"
    content = bytearray(path.read_bytes())
    records = sum(1 for _ in tf.data.TFRecordDataset(str(path)))
    content[100] ^= 1
    path.write_bytes(content)
    examples, outcome = extract()
    assert outcome.work.computed == records
    np.testing.assert_allclose(read_all(run, examples, outcome).vectors, before.vectors, atol=1e-6)


def test_two_runs_write_the_same_bytes(tmp_path, toy_backbone, options, progress):
    paint_images(tmp_path / "data", per_class=20)
    written = []
    for name in ("one", "two"):
        run = RunDir(tmp_path / name)
        examples = ingest(tmp_path / "data", run, options)
        outcome = compute(examples, toy_backbone, run, options, progress)
        written.append({file.name: file.read_bytes() for file in run.bottlenecks(outcome.backbone_id).iterdir()})
    assert written[0] == written[1]
    assert len(written[0]) == 6
