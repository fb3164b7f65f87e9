from pathlib import Path

import pytest
import yaml
from conftest import quiet_progress
from hypothesis import given
from hypothesis import strategies as st

from components.errors import UserError
from pipeline.config import Config, load_config
from pipeline.pipeline import data_place

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))
GOOD = {"name": "x", "data": {"path": "images"}}


@pytest.fixture
def load(tmp_path):
    def run(values, *overrides):
        path = tmp_path / "config.yaml"
        path.write_text(values if isinstance(values, str) else yaml.safe_dump(values))
        return load_config(path, list(overrides))

    return run


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_here_is_valid_and_opens_with_its_command(path):
    assert load_config(path, []).name == path.stem
    assert "topgraft run configs/" in path.read_text().split("name:")[0]


def test_defaults_fill_what_is_not_set(load):
    config = load(GOOD)
    assert config.run_folder == Path("runs/x")
    assert [spec.title for spec in config.backbone] == ["efficientnet_lite0"]
    assert config.data.split.model_dump(exclude_none=True) == {"train": 0.6, "val": 0.2, "test": 0.2}
    assert (config.data.duplicates, config.data.label_conflicts, config.validation.on_anomaly) == (
        "drop",
        "warn",
        "stop",
    )


def test_several_roots_patterns_and_counts_can_be_set(load):
    config = load(
        {"name": "x", "data": {"path": ["a", "b.csv"], "exclude": ["*.gif"], "split": {"train_per_class": 30}}},
        "data.duplicates=keep",
        "validation.baseline=runs/old",
    )
    assert data_place(config, quiet_progress()) == ("a", "b.csv")
    assert (config.data.exclude, config.data.split.train_per_class) == (("*.gif",), 30)
    assert config.validation.baseline_statistics == Path("runs/old/validation")


def test_a_path_goes_before_a_named_data_set(load):
    config = load({"name": "x", "data": {"source": "flowers"}}, "data.path=images")
    assert data_place(config, quiet_progress()) == "images"


def test_overrides_reach_into_sections_and_have_yaml_types(load):
    config = load(GOOD, "train.epochs=3", "evaluate.thresholds.accuracy=0.5", "output_dir=/tmp/a=b", "seed=7")
    assert (config.train.epochs, config.evaluate.thresholds.accuracy, config.seed) == (3, 0.5, 7)
    assert config.output_dir == "/tmp/a=b"


@pytest.mark.parametrize(
    ("values", "overrides", "words"),
    [
        ({**GOOD, "trian": {}}, [], "Unknown key 'trian'; did you mean 'train'"),
        (GOOD, ["data.duplicates=delete"], "'data.duplicates' is 'delete'"),
        (GOOD, ["data.split.train_per_class=0"], "'data.split.train_per_class' is 0"),
        (GOOD, ["data.split.train=1.2"], "'data.split.train' is 1.2"),
        (GOOD, ["data.split.train=0.9"], "the shares sum to 1.3, expected 1"),
        (GOOD, ["validation.on_anomaly=ignore"], "'validation.on_anomaly' is 'ignore'"),
        (GOOD, ["train.epoch=3"], "Unknown key 'train.epoch'; did you mean 'train.epochs'"),
        (GOOD, ["evaluate.thresholds.acuracy=3"], "did you mean 'evaluate.thresholds.accuracy'"),
        (GOOD, ["train.epochs=many"], "'train.epochs' is 'many'"),
        (GOOD, ["train.epochs=0"], "'train.epochs' is 0"),
        (GOOD, ["train=3"], "'train'"),
        (GOOD, ["train.max_memory=0"], "'train.max_memory' is 0"),
        (GOOD, ["augment.crops=6"], "'augment.crops' is 6"),
        (GOOD, ["augment.crop_side=1"], "'augment.crop_side' is 1"),
        (GOOD, ["augment.flips=true"], "did you mean 'augment.flip'"),
        (GOOD, ["name.x=3"], "Cannot set 'name.x'"),
        (GOOD, ["epochs"], "expected key=value"),
        (GOOD, ["seed=["], "Cannot read the value"),
        ({"name": "x"}, [], "'data' is missing"),
        ({"name": "a/b", "data": {"path": "i"}}, [], "a name that can be a folder's"),
        ({"name": "x", "data": {}}, [], "expected data.path"),
        (GOOD, ["data.split.train=0.9"], "shares sum to 1.3"),
        (GOOD, ["data.split.test=0"], "'data.split.test' is 0"),
        ("a: [", [], "not valid YAML"),
        ("just words", [], "holds no keys"),
    ],
)
def test_a_mistake_is_one_sentence_that_names_it(load, values, overrides, words):
    with pytest.raises(UserError) as raised:
        load(values, *overrides)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_missing_config_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none.yaml.*No such file"):
        load_config(tmp_path / "none.yaml", [])


@given(st.dictionaries(st.text(max_size=8), st.one_of(st.integers(), st.text(), st.lists(st.integers()), st.none())))
def test_any_mapping_is_a_config_or_a_user_error(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("c") / "c.yaml"
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(UserError):
        load_config(path, [])


def test_a_config_does_not_change():
    with pytest.raises(ValueError, match="frozen"):
        Config.model_validate(GOOD).name = "y"
