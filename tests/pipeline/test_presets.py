import pytest
from toys import refusal, write_config

from components.backbones.settings import Augment
from pipeline.load_config import load_config
from pipeline.presets import PRESETS, apply_preset


@pytest.fixture
def load(tmp_path):
    def run(*overrides, **values):
        path = write_config(tmp_path / "c.yaml", name="x", data={"path": "images"}, **values)
        return load_config(path, list(overrides))

    return run


def test_balanced_is_the_default_and_has_the_defaults(load):
    assert load() == load("preset=balanced")
    assert (load().preset, PRESETS["balanced"]) == ("balanced", {})


def test_best_joins_three_backbones_and_averages_mirrored_views(load):
    best = load("preset=best")
    assert [spec.title for spec in best.backbone] == [f"efficientnet_lite{number}" for number in range(3)]
    assert best.augment == Augment(flip=True, average=True)
    assert (best.head, best.train) == (load().head, load().train)


def test_fast_has_one_backbone_and_trains_once(load):
    fast = load(preset="fast")
    assert [spec.title for spec in fast.backbone] == ["efficientnet_lite0"]
    assert (fast.train.l2, fast.train.refit, fast.extract) == (0.001, False, load().extract)


def test_the_users_keys_win_one_by_one(load):
    best = load("preset=best", "train.steps=90", "augment.average=false", backbone="efficientnet_lite1")
    assert [spec.title for spec in best.backbone] == ["efficientnet_lite1"]
    assert best.augment == Augment(flip=True, average=False)
    assert best.train.steps == 90


def test_a_preset_stays_as_it_is_when_it_is_applied():
    before = repr(PRESETS)
    apply_preset({"preset": "best", "augment": {"flip": False}})
    assert repr(PRESETS) == before


def test_the_record_shows_the_preset_and_its_keys(load):
    described = load("preset=best").describe()
    assert (described["preset"], described["augment"]["average"], len(described["backbone"])) == ("best", True, 3)


@pytest.mark.parametrize("value", ["bst", "[best]", "null", "3"])
def test_an_unknown_preset_is_one_sentence_with_all_three(load, value):
    message = refusal(load, f"preset={value}")
    assert "'preset' is" in message
    assert "'fast', 'balanced' or 'best'" in message
