import json

import numpy as np
import pytest
from toys import SHARES, encode_noise, ingest, paint_images

from components.backbones.openvino_network import UnsupportedNetwork
from components.backbones.prepare import Backbone
from components.backbones.settings import Augment
from components.backbones.spec import parse_backbone
from components.extract import engine_choice
from components.extract import extract as bottlenecks
from components.extract.engine_choice import EngineTrial, compare_directions, resolve_engine, try_engines
from components.extract.settings import EngineChoice
from components.features import ENCODED, KEY, TENSORFLOW
from components.outcomes import Examples, Work
from components.run_dir import RunDir
from components.shards.names import Shard
from components.shards.records import bytes_feature, serialize_record, writing_shards

CLOSE = EngineChoice("auto", 0.999, 0.995)
# A bfloat16 processor.
ENGINES = ["openvino_bf16", "openvino", "tensorflow"]


def test_the_first_engine_that_is_close_enough_is_chosen(lite, monkeypatch):
    monkeypatch.setattr(engine_choice, "list_engines", lambda: ENGINES)
    images = encode_noise(40)
    chosen, (trial,) = try_engines(lite, images, EngineChoice("auto", 0.9, 0.9))
    assert chosen == trial.engine == "openvino_bf16" and 0.9 < trial.first_percentile_cosine <= trial.median_cosine < 1
    chosen, (bfloat16, exact) = try_engines(lite, images, EngineChoice("auto", 0.99999, 0.99999))
    assert chosen == exact.engine == "openvino" and exact.median_cosine > 0.999999 and bfloat16 == trial
    monkeypatch.setattr(engine_choice, "list_engines", lambda: ENGINES[2:])
    assert try_engines(lite, images, CLOSE) == ("tensorflow", [])


def test_an_engine_that_cannot_run_the_backbone_is_left_out_with_the_reason(lite, monkeypatch):
    def refuse(name, folder):
        raise UnsupportedNetwork("no such operation")

    monkeypatch.setattr(engine_choice, "list_engines", lambda: ENGINES)
    monkeypatch.setattr(engine_choice, "load_engine", refuse)
    chosen, trials = try_engines(lite, encode_noise(4), CLOSE)
    assert chosen == "tensorflow"
    assert [(trial.engine, trial.error) for trial in trials] == [(name, "no such operation") for name in ENGINES[:2]]


@pytest.mark.parametrize(
    ("median", "percentile", "close"), [(0.9993, 0.997, True), (0.998, 0.997, False), (0.9993, 0.9, False)]
)
def test_an_engine_must_reach_both_cosines(median, percentile, close):
    assert engine_choice.is_close(EngineTrial("openvino", median, percentile), CLOSE) == close


def test_cosines_agree_with_their_definition_and_are_1_for_equal_zeros():
    rows = np.array([[1, 0], [1, 1], [0, 0], [0, 0]], np.float32)
    others = np.array([[0, 1], [2, 2], [0, 0], [1, 0]], np.float32)
    np.testing.assert_allclose(compare_directions(rows, others), [0, 1, 1, 0])


def write_keys(run, classes, per_class):
    """Write examples whose content is their key."""
    with writing_shards(run.examples, Shard(0, 1)) as write:
        for label, number in np.ndindex(classes, per_class):  # sorted by key, as ingest writes them
            key = f"{label:02d}/{number:02d}".encode()
            record = {KEY: bytes_feature(key), ENCODED: bytes_feature(key)}
            write[("train", "train", "val", "test")[number % 4]](serialize_record(record))
    count = classes * per_class
    return Examples(Work(), count, count, 0, 0, 0, {}, [], [1], [])


def test_engines_are_compared_on_images_of_all_classes(tmp_path, monkeypatch):
    run, found = RunDir(tmp_path), []
    examples = write_keys(run, 40, 30)
    monkeypatch.setattr(engine_choice, "try_engines", lambda _, encoded, __: (TENSORFLOW, found.extend(encoded) or []))
    assert resolve_engine(examples, Backbone("b", "id", 1, None, ()), CLOSE, run) == TENSORFLOW
    assert len({*found}) == len(found) == 128
    assert {encoded[:2] for encoded in found} == {b"%02d" % label for label in range(40)}


def test_few_images_are_computed_by_tensorflow_without_a_trial(tmp_path):
    run = RunDir(tmp_path)
    examples = write_keys(run, 4, 31)
    assert resolve_engine(examples, Backbone("b", "id", 1, None, ()), CLOSE, run) == TENSORFLOW
    assert not run.trials("id").exists()


def test_a_choice_once_made_stays_until_the_limits_change(tmp_path, toy_backbone, options, progress, monkeypatch):
    run = RunDir(tmp_path / "run")
    examples = ingest(paint_images(tmp_path / "data", per_class=50), run, options, 1, SHARES)
    calls = []

    def try_one(folder, encoded, choice):
        calls.append(len(encoded))
        trial = EngineTrial("openvino", 0.9995, 0.9975)
        return "openvino" if engine_choice.is_close(trial, choice) else TENSORFLOW, [trial]

    monkeypatch.setattr(engine_choice, "try_engines", try_one)

    def extract(choice):
        specs = parse_backbone(toy_backbone)
        return bottlenecks.extract_bottlenecks(examples, specs, choice, Augment(), run, options, progress)

    first = extract(CLOSE)
    assert (first.engine, first.work.computed) == ("openvino", 150)
    assert first.folder(run).name == f"{first.backbone_id}-openvino"
    assert json.loads(run.trials(first.backbone_id).read_text())["trials"][0]["median_cosine"] == 0.9995
    again = extract(CLOSE)
    assert (again.engine, again.work.computed, len(calls)) == ("openvino", 0, 1)
    strict = extract(EngineChoice("auto", 0.9999, 0.999))
    assert (strict.engine, strict.work.computed, len(calls)) == (TENSORFLOW, 150, 2)
    assert strict.folder(run) != first.folder(run)
