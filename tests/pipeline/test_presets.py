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


def test_best_joins_three_backbones_and_whitens(load):
    best = load("preset=best")
    names = [f"efficientnet_lite{number}:maps:gem" for number in range(3)]
    assert [spec.title for spec in best.backbone] == names
    assert (best.augment, best.head.normalize) == (Augment(flip=True, average=True), "whiten")
    assert (best.train.l2, best.train.learning_rate, best.train.steps) == ("auto", 0.0001, 50)


def test_fast_has_one_backbone_and_the_fastest_engine(load):
    fast = load(preset="fast")
    assert [spec.title for spec in fast.backbone] == ["efficientnet_lite0"]
    assert fast.extract.engine == "auto"


def test_the_users_keys_win_one_by_one(load):
    best = load("preset=best", "train.steps=90", "augment.average=false", backbone="efficientnet_lite1")
    assert [spec.title for spec in best.backbone] == ["efficientnet_lite1"]
    assert best.augment == Augment(flip=True, average=False)
    assert (best.train.steps, best.train.l2) == (90, "auto")
    assert load("preset=best", "head=linear").head == load().head


def test_epochs_of_the_user_take_the_place_of_a_presets_steps(load):
    train = load("preset=best", "train.epochs=20").train
    assert (train.epochs, train.steps, train.l2) == (20, None, "auto")
    assert load("preset=best", "train.epochs=null").train.steps == 50


def test_a_preset_stays_as_it_is_when_it_is_applied():
    before = repr(PRESETS)
    apply_preset({"preset": "best", "train": {"epochs": 3}, "augment": {"flip": False}})
    assert repr(PRESETS) == before


def test_the_record_shows_the_preset_and_its_keys(load):
    described = load("preset=best").describe()
    assert (described["preset"], described["train"]["steps"], len(described["backbone"])) == ("best", 50, 3)


@pytest.mark.parametrize("value", ["bst", "[best]", "null", "3"])
def test_an_unknown_preset_is_one_sentence_with_all_three(load, value):
    message = refusal(load, f"preset={value}")
    assert "'preset' is" in message
    assert "'fast', 'balanced' or 'best'" in message
