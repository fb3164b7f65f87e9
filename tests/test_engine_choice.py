import json

import numpy as np
from conftest import SHARES, encode_noise, ingest, paint_images

from components import bottlenecks, engine_choice
from components.catalog import parse_backbone
from components.engine_choice import Closeness, Trial, choose_engine, compare_directions, try_engines
from components.engines import list_engines
from components.features import AUTO, TENSORFLOW, RunDir
from components.views import Augment

CLOSE = Closeness(0.999, 0.995)


def test_every_engine_is_tried_on_the_same_images(lite):
    trials = try_engines(lite, [encode_noise(4, seed) for seed in range(3)])
    assert [trial.engine for trial in trials] == list_engines(lite)
    assert all(trial.images_per_second > 0 for trial in trials)
    assert trials[0].median_cosine == trials[0].first_percentile_cosine == 1.0


def test_the_fastest_that_is_close_enough_is_chosen():
    exact = Trial("tensorflow", 100, 1, 1)
    faster, fastest = Trial("openvino", 140, 1, 0.9999), Trial("openvino_bf16", 230, 0.9993, 0.9971)
    assert choose_engine([exact, faster, fastest], CLOSE) == "openvino_bf16"
    assert choose_engine([exact, faster, fastest._replace(median_cosine=0.998)], CLOSE) == "openvino"
    assert choose_engine([exact, faster, fastest._replace(first_percentile_cosine=0.9)], CLOSE) == "openvino"
    assert choose_engine([exact, faster._replace(images_per_second=90)], CLOSE) == "tensorflow"


def test_cosines_agree_with_their_definition_and_are_1_for_equal_zeros():
    rows = np.array([[1, 0], [1, 1], [0, 0], [0, 0]], np.float32)
    others = np.array([[0, 1], [2, 2], [0, 0], [1, 0]], np.float32)
    np.testing.assert_allclose(compare_directions(rows, others), [0, 1, 1, 0])


def test_a_choice_once_made_stays_until_the_limits_change(tmp_path, toy_backbone, options, progress, monkeypatch):
    run = RunDir(tmp_path / "run")
    examples = ingest(paint_images(tmp_path / "data", per_class=50), run, options, 1, SHARES)
    calls = []

    def try_two(folder, batches):
        calls.append(len(batches))
        return [Trial("tensorflow", 100, 1, 1), Trial("tensorflow_bf16", 200, 0.9995, 0.9975)]

    monkeypatch.setattr(engine_choice, "try_engines", try_two)

    def extract(closeness):
        source = bottlenecks.open_source(parse_backbone(toy_backbone), run.backbones, progress)
        plain = Augment(flip=False, crops=0, crop_side=0.8, average=False)
        return bottlenecks.extract_bottlenecks(examples, source, AUTO, closeness, plain, run, options, progress)

    first = extract(CLOSE)
    assert (first.engine, first.work.computed) == ("tensorflow_bf16", 150)
    assert first.folder(run).name == f"{first.backbone_id}-tensorflow_bf16"
    assert json.loads(run.trials(first.backbone_id).read_text())["trials"][1]["images_per_second"] == 200
    again = extract(CLOSE)
    assert (again.engine, again.work.computed, len(calls)) == ("tensorflow_bf16", 0, 1)
    strict = extract(Closeness(0.9999, 0.999))
    assert (strict.engine, strict.work.computed, len(calls)) == (TENSORFLOW, 150, 2)
    assert strict.folder(run) != first.folder(run)
