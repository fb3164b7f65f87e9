import json

import numpy as np
from toys import SHARES, encode_noise, ingest, paint_images

from components.backbones.engines import list_engines
from components.backbones.prepare import Backbone
from components.backbones.settings import Augment
from components.backbones.spec import parse_backbone
from components.extract import engine_choice
from components.extract import extract as bottlenecks
from components.extract.engine_choice import EngineTrial, choose_engine, compare_directions, resolve_engine, try_engines
from components.extract.settings import EngineChoice
from components.features import ENCODED, KEY, TENSORFLOW
from components.outcomes import Examples, Work
from components.run_dir import RunDir
from components.shards.names import Shard
from components.shards.records import bytes_feature, serialize_record, writing_shards

CLOSE = EngineChoice("auto", 0.999, 0.995)
EXACT = EngineTrial(TENSORFLOW, 100, 1, 1)


def test_every_engine_is_tried_on_the_same_images(lite):
    trials = try_engines(lite, [encode_noise(4, seed) for seed in range(3)])
    assert [trial.engine for trial in trials] == list_engines(lite)
    assert all(trial.images_per_second > 0 for trial in trials)
    assert trials[0].median_cosine == trials[0].first_percentile_cosine == 1.0


def test_the_fastest_that_is_close_enough_is_chosen():
    faster, fastest = EngineTrial("openvino", 140, 1, 0.9999), EngineTrial("openvino_bf16", 230, 0.9993, 0.9971)
    assert choose_engine([EXACT, faster, fastest], CLOSE) == "openvino_bf16"
    assert choose_engine([EXACT, faster, fastest._replace(median_cosine=0.998)], CLOSE) == "openvino"
    assert choose_engine([EXACT, faster, fastest._replace(first_percentile_cosine=0.9)], CLOSE) == "openvino"
    assert choose_engine([EXACT, faster._replace(images_per_second=90)], CLOSE) == "tensorflow"


def test_cosines_agree_with_their_definition_and_are_1_for_equal_zeros():
    rows = np.array([[1, 0], [1, 1], [0, 0], [0, 0]], np.float32)
    others = np.array([[0, 1], [2, 2], [0, 0], [1, 0]], np.float32)
    np.testing.assert_allclose(compare_directions(rows, others), [0, 1, 1, 0])


def test_engines_are_compared_on_images_of_all_classes(tmp_path, monkeypatch):
    run = RunDir(tmp_path)
    with writing_shards(run.examples, Shard(0, 1)) as write:
        for label, number in np.ndindex(40, 30):  # sorted by key, as ingest writes them
            key = f"{label:02d}/{number:02d}".encode()
            record = {KEY: bytes_feature(key), ENCODED: bytes_feature(key)}
            write[("train", "train", "val", "test")[number % 4]](serialize_record(record))
    found = []
    monkeypatch.setattr(engine_choice, "try_engines", lambda _, batches: found.extend(batches) or [EXACT])
    examples = Examples(Work(), 1200, 1200, 0, 0, 0, {}, [], [1], [])
    assert resolve_engine(examples, Backbone("b", "id", 1, None, ()), CLOSE, run) == TENSORFLOW
    assert [len(batch) for batch in found] == [32] * 9
    assert len({encoded for batch in found for encoded in batch}) == 288
    assert {encoded[:2] for batch in found[1:] for encoded in batch} == {b"%02d" % label for label in range(40)}


def test_a_choice_once_made_stays_until_the_limits_change(tmp_path, toy_backbone, options, progress, monkeypatch):
    run = RunDir(tmp_path / "run")
    examples = ingest(paint_images(tmp_path / "data", per_class=50), run, options, 1, SHARES)
    calls = []

    def try_two(folder, batches):
        calls.append(len(batches))
        return [EXACT, EngineTrial("tensorflow_bf16", 200, 0.9995, 0.9975)]

    monkeypatch.setattr(engine_choice, "try_engines", try_two)

    def extract(choice):
        specs = parse_backbone(toy_backbone)
        return bottlenecks.extract_bottlenecks(examples, specs, choice, Augment(), run, options, progress)

    first = extract(CLOSE)
    assert (first.engine, first.work.computed) == ("tensorflow_bf16", 150)
    assert first.folder(run).name == f"{first.backbone_id}-tensorflow_bf16"
    assert json.loads(run.trials(first.backbone_id).read_text())["trials"][1]["images_per_second"] == 200
    again = extract(CLOSE)
    assert (again.engine, again.work.computed, len(calls)) == ("tensorflow_bf16", 0, 1)
    strict = extract(EngineChoice("auto", 0.9999, 0.999))
    assert (strict.engine, strict.work.computed, len(calls)) == (TENSORFLOW, 150, 2)
    assert strict.folder(run) != first.folder(run)
