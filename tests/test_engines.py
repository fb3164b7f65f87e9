import io
import json

import numpy as np
import pytest
from conftest import SHARES, ingest, paint_images, refusal
from PIL import Image

from components import bottlenecks
from components.backbone import BackboneSession, prepare_backbone
from components.catalog import parse_backbone
from components.engines import (
    Closeness,
    Trial,
    choose_engine,
    compare_directions,
    list_engines,
    load_engine,
    try_engines,
)
from components.features import AUTO, TENSORFLOW, RunDir

CLOSE = Closeness(0.999, 0.995)


def encode(count, seed=0):
    random = np.random.default_rng(seed)
    images = []
    for _ in range(count):
        buffer = io.BytesIO()
        Image.fromarray(random.integers(0, 256, (40, 50, 3), np.uint8)).save(buffer, "PNG")
        images.append(buffer.getvalue())
    return images


@pytest.fixture(scope="module")
def lite(tmp_path_factory):
    """The embedded backbone's folder."""
    from conftest import quiet_progress

    folder = tmp_path_factory.mktemp("backbones")
    return folder / prepare_backbone(parse_backbone("efficientnet_lite0"), folder, quiet_progress()).id


@pytest.mark.parametrize("name", ["tensorflow", "tensorflow_bf16", "openvino", "openvino_bf16"])
def test_each_engine_gives_the_bottlenecks_of_tensorflow_in_float32(lite, name):
    if name.startswith("openvino"):
        pytest.importorskip("openvino")
    encoded = encode(8)
    expected = BackboneSession(lite).compute_bottlenecks(encoded)
    found = load_engine(name, lite).compute_bottlenecks(encoded)
    assert found.dtype == np.float32 and found.shape == (8, 1280)
    if name.endswith("bf16"):
        assert compare_directions(found, expected).min() > 0.98
    else:
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_every_engine_is_tried_on_the_same_images(lite):
    trials = try_engines(lite, [encode(4, seed) for seed in range(3)])
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


def test_backbones_side_by_side_are_left_to_tensorflow(tmp_path, toy_backbone, progress):
    backbone = prepare_backbone(parse_backbone([toy_backbone, toy_backbone]), tmp_path, progress)
    assert list_engines(tmp_path / backbone.id) == ["tensorflow", "tensorflow_bf16"]
    assert "'openvino' is not to be had" in refusal(load_engine, "openvino", tmp_path / backbone.id)


def test_a_choice_once_made_stays_until_the_limits_change(tmp_path, toy_backbone, options, progress, monkeypatch):
    run = RunDir(tmp_path / "run")
    examples = ingest(paint_images(tmp_path / "data", per_class=50), run, options, 1, SHARES)
    calls = []

    def try_two(folder, batches):
        calls.append(len(batches))
        return [Trial("tensorflow", 100, 1, 1), Trial("tensorflow_bf16", 200, 0.9995, 0.9975)]

    monkeypatch.setattr(bottlenecks, "try_engines", try_two)

    def extract(closeness):
        specs = parse_backbone(toy_backbone)
        return bottlenecks.extract_bottlenecks(examples, specs, AUTO, closeness, run, options, progress)

    first = extract(CLOSE)
    assert (first.engine, first.work.computed) == ("tensorflow_bf16", 150)
    assert first.folder(run).name == f"{first.backbone_id}-tensorflow_bf16"
    assert json.loads(run.trials(first.backbone_id).read_text())["trials"][1]["images_per_second"] == 200
    again = extract(CLOSE)
    assert (again.engine, again.work.computed, len(calls)) == ("tensorflow_bf16", 0, 1)
    strict = extract(Closeness(0.9999, 0.999))
    assert (strict.engine, strict.work.computed, len(calls)) == (TENSORFLOW, 150, 2)
    assert strict.folder(run) != first.folder(run)
