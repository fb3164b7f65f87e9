import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from records import PLAIN, compute
from toys import SHARES, ingest, paint_images, write_config

from components.backbones.prepare import BackboneSession
from components.backbones.settings import Augment
from components.backbones.spec import parse_backbone
from components.backbones.views import list_views
from components.errors import DamagedFile
from components.extract import engine_choice, write_shards
from components.extract.extract import extract_bottlenecks
from components.extract.settings import EngineChoice
from components.features import SPLITS
from components.run_dir import RunDir
from components.shards.bottlenecks import read_bottlenecks
from components.shards.names import Shard, shard_name
from components.shards.records import shard_files
from components.storage.files import PARTIAL
from pipeline.cli import main


@pytest.fixture
def pipeline(tmp_path, toy_backbone, options, progress):
    """Return a function that ingests and extracts, and gives (run, outcome)."""
    run = RunDir(tmp_path / "run")

    def extract(shards=2, shares=SHARES, seed=0, augment=PLAIN):
        examples = ingest(tmp_path / "data", run, options, shards, shares, seed)
        return examples, compute(examples, toy_backbone, run, options, progress, augment)

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

    def fail(self, images, views):
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
        written.append(
            {file.name: file.read_bytes() for file in run.bottlenecks(outcome.backbone_id).glob("*.tfrecord")}
        )
    assert written[0] == written[1]
    assert len(written[0]) == 6


VIEWS = Augment(flip=True, crops=2, crop_side=0.7, average=False)


def test_every_view_of_an_image_is_kept_and_the_whole_image_is_what_is_served(tmp_path, pipeline):
    run, extract = pipeline
    examples, outcome = extract(augment=VIEWS)
    assert (outcome.view_count, outcome.folder(run).name) == (4, f"{outcome.backbone_id}-flip-crops2x0.7")
    files = [f for split in SPLITS for f in shard_files(outcome.folder(run), split, examples.shards)]
    table = read_bottlenecks(files, outcome.dim, 4)
    encoded = [(tmp_path / "data" / key).read_bytes() for key in table.keys]
    session = BackboneSession(run.backbones / outcome.backbone_id)
    expected = session.compute_bottlenecks(encoded, list_views(VIEWS))
    np.testing.assert_allclose(table.views, expected.reshape(60, 4, -1), atol=1e-5)
    np.testing.assert_allclose(table.vectors, session.compute_bottlenecks(encoded), atol=1e-5)


def test_averaging_views_that_lie_there_costs_no_forward_pass(pipeline):
    run, extract = pipeline
    examples, outcome = extract(augment=VIEWS)
    _, averaged = extract(augment=replace(VIEWS, average=True))
    assert (averaged.work.reused, averaged.work.computed) == (60, 0)
    table = read_bottlenecks(shard_files(averaged.folder(run), "train", examples.shards), outcome.dim, 4)
    unit = table.views / np.linalg.norm(table.views, axis=2, keepdims=True)
    np.testing.assert_allclose(table.vectors, unit.mean(1), atol=1e-6)


def flip_bit(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_a_damaged_example_shard_is_named(tmp_path, pipeline, toy_backbone, options, progress):
    run, _ = pipeline
    examples = ingest(tmp_path / "data", run, options)
    file = run.examples / shard_name("val", Shard(1, 2))
    flip_bit(file)
    with pytest.raises(DamagedFile) as caught:
        compute(examples, toy_backbone, run, options, progress)
    assert caught.value.path == str(file)


def test_a_killed_extraction_goes_on_where_it_was(tmp_path):
    paint_images(tmp_path / "data", per_class=120)
    folder = tmp_path / "run"
    config = write_config(
        tmp_path / "c.yaml",
        name="killed",
        output_dir=str(folder),
        data={"path": str(tmp_path / "data")},
        train={"epochs": 1},
        beam={"shards": 16},
    )
    command = [str(Path(sys.executable).parent / "topgraft"), "run", str(config)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 300
        while len(found := list(folder.glob("bottlenecks/*/*.tfrecord"))) < 9 and time.monotonic() < deadline:
            time.sleep(0.01)
        process.kill()
    assert 9 <= len(found) < 48
    complete = {file.name[-23:-9] for file in found if len(list(file.parent.glob(f"*{file.name[-23:]}"))) == 3}
    kept = sum(len(read_bottlenecks([str(file)], 1984).keys) for file in found if file.name[-23:-9] in complete)
    assert main(["run", str(config), "--only", "extract"]) == 0
    extract = json.loads((folder / "run.json").read_text())["stages"]["extract"]
    assert extract["items"] == 360 and kept > 0
    assert extract["reused"] >= kept
    assert extract["reused"] + extract["computed"] == 360
    assert not list(folder.rglob(f"*{PARTIAL}"))


def test_with_integers_the_test_split_has_the_bottlenecks_of_the_close_engine(
    tmp_path, toy_backbone, options, progress, monkeypatch
):
    """Also that of an image that comes to the test split from another."""

    class Constant:
        """Instead of an engine: all numbers are the number of bits."""

        def __init__(self, bits):
            self.bits = bits

        def compute_bottlenecks(self, images, views):
            return np.full((len(images), 48), self.bits, np.float32)

    quantized = []
    monkeypatch.setattr(engine_choice, "quantize_network", lambda _, images: quantized.append(len(images)))
    monkeypatch.setattr(write_shards, "load_engine", lambda name, _: Constant(8 if name == "openvino_int8" else 32))
    run, images = RunDir(tmp_path / "run"), paint_images(tmp_path / "data", per_class=10)
    for shares in (SHARES, {"train": 0.2, "val": 0.3, "test": 0.5}):
        examples = ingest(images, run, options, 2, shares, 0)
        specs, choice = parse_backbone(toy_backbone), EngineChoice("openvino_int8")
        outcome = extract_bottlenecks(examples, specs, choice, PLAIN, run, options, progress)
        assert (outcome.engine, outcome.test_engine) == ("openvino_int8", "tensorflow")
        for split, bits in (("train", 8), ("val", 8), ("test", 32)):
            files = shard_files(outcome.folder(run), split, examples.shards)
            assert set(read_bottlenecks(files, 48).vectors.ravel()) == {bits}, split
    assert 0 < outcome.work.reused < 30 and quantized[0] == 15
