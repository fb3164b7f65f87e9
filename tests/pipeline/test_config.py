from dataclasses import asdict
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from toys import COLOURS, paint_images

from components.errors import UserError
from components.finetune.settings import Tuning
from components.train.settings import Architecture, HiddenLayer, Recipe, Schedule
from pipeline.config import Config
from pipeline.load_config import load_config
from pipeline.pipeline import list_data

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))
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
    assert config.data.split.fractions == {"train": 0.6, "val": 0.2, "test": 0.2}
    assert (config.data.duplicates, config.data.label_conflicts, config.validation.on_anomaly) == (
        "drop",
        "warn",
        "stop",
    )


def test_the_head_and_its_training_have_defaults(load):
    config = load(GOOD)
    assert asdict(config.head) == {"hidden": (), "output": "auto", "normalize": "auto"}
    assert asdict(config.train) == {
        "epochs": None,
        "steps": None,
        "batch_size": 256,
        "optimizer": "adam",
        "momentum": 0.9,
        "learning_rate": None,
        "schedule": {"kind": "cosine", "warmup": 0, "decay": 0.9, "decay_steps": 500},
        "l2": None,
        "refit": True,
        "label_smoothing": 0,
        "class_weight": None,
        "patience": None,
        "warm_start": None,
        "max_memory": None,
        "seed": None,
        "finetune": None,
    }
    assert config.abstain is None


def test_what_a_config_gives_reaches_the_components(load):
    assert load(GOOD).recipe == Recipe(seed=0)
    assert load(GOOD).head == Architecture()
    train = {
        "steps": 90,
        "batch_size": 32,
        "optimizer": "momentum",
        "momentum": 0.8,
        "learning_rate": 0.1,
        "schedule": {"kind": "exponential", "warmup": 5, "decay": 0.96, "decay_steps": 1000},
        "l2": "auto",
        "refit": False,
        "label_smoothing": 0.1,
        "class_weight": {"a": 2},
        "patience": 3,
        "warm_start": "runs/old",
        "max_memory": 10**9,
    }
    recipe = load({**GOOD, "train": train}, "seed=4").recipe
    schedule = Schedule("exponential", 5, 0.96, 1000)
    assert recipe == Recipe(**{**train, "schedule": schedule, "warm_start": Path("runs/old"), "seed": 4})


@pytest.mark.parametrize("value", ["linear", [], {}, {"hidden": []}])
def test_a_linear_head_has_several_names(load, value):
    assert load({**GOOD, "head": value}).head == Architecture()


@pytest.mark.parametrize("value", [[{"units": 512}], {"hidden": [{"units": 512}]}])
def test_hidden_layers_are_a_list_or_a_key_of_the_section(load, value):
    head = load({**GOOD, "head": value}).head
    assert head.hidden == (HiddenLayer(512, "relu", 0, 0),)


def test_a_head_of_several_layers_is_read_in_order(load):
    layers = [{"units": 8, "activation": "tanh", "dropout": 0.5, "l2": 0.01}, {"units": 4}]
    section = {"hidden": layers, "output": "softmax", "normalize": "standardize"}
    head = load({**GOOD, "head": section}).head
    assert [(layer.units, layer.activation, layer.dropout, layer.l2) for layer in head.hidden] == [
        (8, "tanh", 0.5, 0.01),
        (4, "relu", 0, 0),
    ]
    assert (head.output, head.normalize) == ("softmax", "standardize")


def test_every_activation_that_a_config_takes_is_one_of_keras():
    import tensorflow as tf

    for name in get_args(get_type_hints(HiddenLayer)["activation"]):
        assert callable(tf.keras.activations.get(name))


def test_a_schedule_can_be_its_kind_alone(load):
    schedule = load(GOOD, "train.schedule=exponential").train.schedule
    assert asdict(schedule) == {"kind": "exponential", "warmup": 0, "decay": 0.9, "decay_steps": 500}
    warm = load(GOOD, "train.schedule.warmup=7").train.schedule
    assert (warm.kind, warm.warmup) == ("cosine", 7)


@pytest.mark.parametrize("text, expected", [("auto", "auto"), ("0", 0), ("0.01", 0.01), ("1e-4", 0.0001)])
def test_the_penalty_is_a_number_or_auto(load, text, expected):
    assert load(GOOD, f"train.l2={text}").train.l2 == expected


def test_class_weights_are_balanced_or_by_name(load):
    assert load(GOOD, "train.class_weight=balanced").train.class_weight == "balanced"
    weights = load(GOOD, "train.class_weight={7: 2, cat: 0.5, dog: 1e-1}").train.class_weight
    assert weights == {"7": 2, "cat": 0.5, "dog": 0.1}


def test_a_model_abstains_where_a_precision_is_set(load):
    assert load(GOOD, "abstain.precision=0.95").abstain.precision == 0.95


def test_several_roots_patterns_and_counts_can_be_set(load):
    config = load(
        {"name": "x", "data": {"path": ["a", "b.csv"], "exclude": ["*.gif"], "split": {"train_per_class": 30}}},
        "data.duplicates=keep",
        "validation.baseline=runs/old",
    )
    assert config.data.path == ("a", "b.csv")
    assert (config.data.exclude, config.data.split.train_per_class) == (("*.gif",), 30)
    assert config.validation.inputs == [Path("runs/old/validation")]


def test_a_path_goes_before_a_named_data_set(load, tmp_path, progress):
    paint_images(tmp_path / "images", per_class=2)
    config = load({"name": "x", "data": {"source": "flowers"}}, f"data.path={tmp_path / 'images'}")
    assert list_data(config, progress).labels == [*COLOURS]


def test_training_alone_can_have_a_seed_of_its_own(load):
    config = load(GOOD, "seed=3", "train.seed=5", "train.finetune.layers=2")
    assert (config.seed, config.recipe.seed, config.tuned_recipe.seed) == (3, 5, 5)


def test_overrides_reach_into_sections_and_have_yaml_types(load):
    config = load(GOOD, "train.epochs=3", "evaluate.thresholds.accuracy=0.5", "output_dir=/tmp/a=b", "seed=7")
    assert (config.train.epochs, config.evaluate.thresholds.accuracy, config.seed) == (3, 0.5, 7)
    assert config.output_dir == "/tmp/a=b"


def test_fine_tuning_is_off_unless_asked_for_and_has_defaults(load):
    assert load(GOOD).train.finetune is None
    tuning = load(GOOD, "train.finetune.layers=3").train.finetune
    assert tuning == Tuning(True, 0.7, 0.2, layers=3)
    rates = load(GOOD, "train.finetune={from: block14, learning_rate: 1e-5, head_learning_rate: 1e-4}").train.finetune
    assert (rates.behind, rates.learning_rate, rates.head_learning_rate) == ("block14", 1e-5, 1e-4)
    assert load(GOOD, "train.finetune.layers=3").recipe == load(GOOD).recipe


@pytest.mark.parametrize(
    ("values", "overrides", "words"),
    [
        ({**GOOD, "trian": {}}, [], "Unknown key 'trian'; did you mean 'train'"),
        (GOOD, ["data.duplicates=delete"], "'data.duplicates' is 'delete'"),
        (GOOD, ["data.split.train_per_class=0"], "'data.split.train_per_class' is 0"),
        (GOOD, ["data.split.train=1.2"], "'data.split.train' is 1.2"),
        (GOOD, ["data.split.train=0.9"], "the fractions sum to 1.3, expected 1"),
        (GOOD, ["validation.on_anomaly=ignore"], "'validation.on_anomaly' is 'ignore'"),
        (GOOD, ["train.epoch=3"], "Unknown key 'train.epoch'; did you mean 'train.epochs'"),
        (GOOD, ["evaluate.thresholds.acuracy=3"], "did you mean 'evaluate.thresholds.accuracy'"),
        (GOOD, ["train.epochs=many"], "'train.epochs' is 'many'"),
        (GOOD, ["train.epochs=0"], "'train.epochs' is 0"),
        (GOOD, ["train=3"], "'train'"),
        (GOOD, ["train.max_memory=0"], "'train.max_memory' is 0"),
        (GOOD, ["head=deep"], "'head' is 'deep': expected linear, a list of hidden layers"),
        (GOOD, ["head=[3]"], "'head.hidden.0' is 3"),
        (GOOD, ["head=[{units: 0}]"], "'head.hidden.0.units' is 0"),
        (GOOD, ["head=[{units: 4}, {activation: tanh}]"], "'head.hidden.1.units' is missing"),
        (GOOD, ["head=[{units: 4, activation: relo}]"], "'head.hidden.0.activation' is 'relo': input should be 'relu'"),
        (GOOD, ["head=[{units: 4, dropout: 1}]"], "'head.hidden.0.dropout' is 1"),
        (GOOD, ["head.hidden=[{units: 4, droput: 0.5}]"], "did you mean 'head.hidden.0.dropout'"),
        (GOOD, ["head.hiden=[]"], "did you mean 'head.hidden'"),
        (GOOD, ["head.output=both"], "'head.output' is 'both'"),
        (GOOD, ["head.normalize=l1"], "'head.normalize' is 'l1'"),
        (GOOD, ["train.optimizer=adm"], "'train.optimizer' is 'adm'"),
        (GOOD, ["train.momentum=1"], "'train.momentum' is 1"),
        (GOOD, ["train.learning_rate=0"], "'train.learning_rate' is 0"),
        (GOOD, ["train.schedule=cosin"], "'train.schedule.kind' is 'cosin'"),
        (GOOD, ["train.schedule={kind: cosine, decay: 0.9}"], "'train.schedule': decay belongs to kind exponential"),
        (GOOD, ["train.schedule.decay_steps=9"], "'train.schedule': decay_steps belongs to kind exponential"),
        (GOOD, ["train.schedule={kind: exponential, decay: 1.1}"], "'train.schedule.decay' is 1.1"),
        (GOOD, ["train={epochs: 3, steps: 90}"], "'train': epochs is 3 and steps is 90, expected one of the two"),
        (GOOD, ["train.l2=-1"], "'train.l2' is -1: expected a number of 0 or more, or auto"),
        (GOOD, ["train.l2=automatic"], "'train.l2' is 'automatic': expected a number of 0 or more, or auto"),
        (GOOD, ["train.l2=.nan"], "'train.l2' is nan"),
        (GOOD, ["train={l2: auto, optimizer: adamw}"], "'train': l2 is auto, which tunes an L2 penalty"),
        (GOOD, ["train.l2=auto", "head=[{units: 4}]"], "'train.l2' is auto, which suits a linear head only"),
        (GOOD, ["train.learning_rate=.inf"], "'train.learning_rate' is inf: input should be a finite number"),
        (GOOD, ["train.learning_rate=.nan"], "'train.learning_rate' is nan"),
        (GOOD, ["evaluate.thresholds.min_class_recall=1.5"], "'evaluate.thresholds.min_class_recall' is 1.5"),
        (GOOD, ["evaluate.thresholds.mean_class_accuracy=-0.1"], "'evaluate.thresholds.mean_class_accuracy' is -0.1"),
        (GOOD, ["evaluate.thresholds.loss=.inf"], "'evaluate.thresholds.loss' is inf"),
        (GOOD, ["head=[{units: 4, l2: .inf}]"], "'head.hidden.0.l2' is inf"),
        (GOOD, ["train.warm_start=runs/x"], "The output_dir 'runs/x' is 'runs/x', which the run reads"),
        (GOOD, ["output_dir=a", "train.warm_start=b/../a/"], "The output_dir 'a' is 'b/../a', which the run reads"),
        (GOOD, ["train.label_smoothing=1"], "'train.label_smoothing' is 1"),
        (GOOD, ["train.class_weight=heavy"], "'train.class_weight' is 'heavy': expected balanced, or numbers"),
        (GOOD, ["train.class_weight={cat: big}"], "'train.class_weight': expected balanced, or numbers"),
        (GOOD, ["train.class_weight={cat: -1}"], "'train.class_weight': expected balanced, or numbers"),
        (GOOD, ["train.patience=0"], "'train.patience' is 0"),
        (GOOD, ["train.finetune={}"], "'train.finetune': neither layers nor from is set, expected one"),
        (GOOD, ["train.finetune={layers: 3, from: pool}"], "'train.finetune': both layers and from are set"),
        (GOOD, ["train.finetune.layers=0"], "'train.finetune.layers' is 0"),
        (GOOD, ["train.finetune={from: ''}"], "'train.finetune.from' is ''"),
        (GOOD, ["train.finetune={layers: 3, crop: 0}"], "'train.finetune.crop' is 0"),
        (GOOD, ["train.finetune={layers: 3, colour: 1}"], "'train.finetune.colour' is 1"),
        (GOOD, ["train.finetune={layers: 3, learning_rate: 0}"], "'train.finetune.learning_rate' is 0"),
        (GOOD, ["train.finetune={layer: 3}"], "did you mean 'train.finetune.layers'"),
        (
            {**GOOD, "backbone": ["efficientnet_lite0", "efficientnet_lite1"]},
            ["train.finetune.layers=3"],
            "backbone has several backbones side by side, but train.finetune needs one backbone with a network",
        ),
        (
            {**GOOD, "backbone": {"bottlenecks": str(Path(__file__).parent), "name": "efficientnet_lite0"}},
            ["train.finetune.layers=3"],
            "backbone has ready-made bottlenecks, but train.finetune needs",
        ),
        (GOOD, ["abstain.precision=1.5"], "'abstain.precision' is 1.5"),
        (GOOD, ["abstain.precision=0"], "'abstain.precision' is 0"),
        (GOOD, ["abstain={precision: 0.9, presision: 0.9}"], "did you mean 'abstain.precision'"),
        (GOOD, ["abstain=0.9"], "'abstain' is 0.9"),
        (GOOD, ["augment.crops=6"], "'augment.crops' is 6"),
        (GOOD, ["augment.crop_side=1"], "'augment.crop_side' is 1"),
        (GOOD, ["augment.flips=true"], "did you mean 'augment.flip'"),
        (GOOD, ["name.x=3"], "Cannot set 'name.x'"),
        (GOOD, ["epochs"], "expected key=value"),
        (GOOD, ["seed=["], "Cannot read the value"),
        ({"name": "x"}, [], "'data' is missing"),
        ({"name": "a/b", "data": {"path": "i"}}, [], "a valid folder name"),
        ({"name": "x", "data": {}}, [], "expected data.path"),
        (GOOD, ["data.split.train=0.9"], "fractions sum to 1.3"),
        (GOOD, ["data.split.test=0"], "'data.split.test' is 0"),
        ("a: [", [], "not valid YAML"),
        ("a: !!timestamp 2001-99-99", [], "not valid YAML"),
        ("name: x\ndata: {path: d, exclude: [junk]}\nname: y", [], "the key 'name' is in lines 1 and 3"),
        (GOOD, ["data={path: a, path: b}"], "the key 'path' is in line 1, twice"),
        ({**GOOD, "name": 2024}, [], "'name' is 2024: expected text, put it in quotes"),
        (GOOD, ["data.exclude=[2]"], "'data.exclude.0' is 2: expected text, put it in quotes"),
        (GOOD, ["data.layout=folders"], "'data.layout' is 'folders'"),
        (GOOD, ["train.l2=" + "9" * 400], "'train.l2' is 999"),
        (GOOD, ["train.class_weight={a: " + "9" * 400 + "}"], "'train.class_weight'"),
        (GOOD, ["backbone={frozen_graph: a, scale: [b, 1]}"], "backbone.scale is ['b', 1]"),
        (GOOD, ["backbone={frozen_graph: a, scale: [-.inf, 1]}"], "backbone.scale is [-inf, 1]"),
        ("just words", [], "has no keys"),
    ],
)
def test_a_mistake_is_one_sentence_that_names_it(load, values, overrides, words):
    with pytest.raises(UserError) as raised:
        load(values, *overrides)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_run_can_start_from_another_and_from_a_link_to_another_but_not_to_itself(load, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / f"link_{name}").symlink_to(tmp_path / name)
    output_dir = f"output_dir={tmp_path / 'one'}"
    for other in ("two", "link_two"):
        assert load(GOOD, output_dir, f"train.warm_start={tmp_path / other}").train.inputs[0].parent.name == other
    with pytest.raises(UserError, match="which the run reads .train.warm_start."):
        load(GOOD, output_dir, f"train.warm_start={tmp_path / 'link_one'}")
    assert load(GOOD).train.inputs == []


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


def test_a_config_is_described_without_keys_to_stores_and_passes_them_on(load):
    config = load({**GOOD, "beam": {"s3_secret_access_key": "open sesame", "num_workers": 2}})
    described = config.describe()
    assert described["beam"] == {
        "runner": "DirectRunner",
        "shards": None,
        "s3_secret_access_key": "(hidden)",
        "num_workers": 2,
    }
    assert config.beam.options["s3_secret_access_key"] == "open sesame"
    assert "open sesame" not in str(described)


def test_class_names_that_yaml_takes_for_other_things_are_names(load):
    config = load(
        "name: x\ndata: {path: d, exclude: [no, off, 2024-01-01]}\n"
        "train: {class_weight: {yes: 2, no: 1e-1, 1: 3, 1.0: 4, 010: 5, null: 6}}"
    )
    assert config.data.exclude == ("no", "off", "2024-01-01")
    assert config.train.class_weight == {"yes": 2, "no": 0.1, "1": 3, "1.0": 4, "010": 5, "null": 6}


@pytest.mark.parametrize(
    "path", ["birds #2", "#recycle", "*.tfrecord", "a [b] *", "%x", "@home", "a: b #c", "[x #y", "x#y"]
)
def test_a_path_on_the_command_line_is_taken_as_it_is_written(load, path):
    if path.startswith("["):
        assert load(GOOD, f"data.path='{path}'").data.path == path
    else:
        assert load(GOOD, f"data.path={path}", f"data.labels= {path} ").data.labels == path


def test_values_on_the_command_line_stay_yaml(load):
    assert load(GOOD, 'data.labels="x #y"').data.labels == "x #y"
    assert load(GOOD, "data.exclude=['#x', y]").data.exclude == ("#x", "y")


def test_a_switch_may_still_be_yes_or_no(load):
    assert load(GOOD, "augment.flip=yes").augment.flip is True
    assert load(GOOD, "augment.flip=off").augment.flip is False


def test_the_home_folder_is_expanded_in_every_place(load, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("g.pb", "w.h5", "b.npz", "k.txt"):
        (tmp_path / name).touch()
    config = load(
        {
            "name": "x",
            "output_dir": "~/out",
            "data": {"path": "~/d", "labels": "~/labels.txt", "exclude": ["~x", "~/d"]},
            "validation": {"schema": "~/schema.pbtxt", "baseline": "~/former"},
            "train": {"warm_start": "~/former"},
            "backbone": [
                {
                    "frozen_graph": "~/g.pb",
                    "input": "i",
                    "bottleneck": "b",
                    "bottlenecks": "~/b.npz",
                    "keys": "~/k.txt",
                },
                {"keras": "VGG19", "weights": "~/w.h5"},
                "~/hub",
            ],
            "curve": {"backbones": ["~/hub", {"hub": "~/module"}]},
        }
    )
    home = str(tmp_path)
    assert (config.run_folder, config.data.path, config.data.labels) == (
        tmp_path / "out",
        f"{home}/d",
        f"{home}/labels.txt",
    )
    assert config.data.exclude == ("~x", "~/d")  # patterns on keys, which are below a root
    assert (config.validation.schema_path, config.validation.baseline) == (
        tmp_path / "schema.pbtxt",
        tmp_path / "former",
    )
    assert config.train.warm_start == tmp_path / "former"
    graph, keras, hub = config.backbone
    assert (graph.frozen_graph, graph.bottlenecks, graph.keys) == (f"{home}/g.pb", f"{home}/b.npz", f"{home}/k.txt")
    assert (keras.weights, hub.hub) == (f"{home}/w.h5", f"{home}/hub")
    assert [spec.hub for (spec,) in config.curve.backbones] == [f"{home}/hub", f"{home}/module"]
    assert load(GOOD, "data.path=[~/a, b, gs://c/~/d]").data.path == (f"{home}/a", "b", "gs://c/~/d")
    assert load(GOOD, "beam.temp_location=~/tmp").beam.options["temp_location"] == f"{home}/tmp"


def test_pattern_characters_are_refused_where_no_link_can_stand_for_a_run_directory(load):
    assert load(GOOD, "output_dir=a [b] *?").run_folder == Path("a [b] *?")
    for words in (["output_dir='gs://bucket/a [b]'"], ["name=a*", "beam.runner=PortableRunner"]):
        with pytest.raises(UserError, match="set it to a path without them"):
            load(GOOD, *words)


def test_a_name_that_only_begins_with_a_tilde_is_left_as_it_is(load):
    assert load(GOOD, "output_dir=~nobody-of-this-name/x").output_dir == "~nobody-of-this-name/x"
    assert load(GOOD, "output_dir=runs/~x").output_dir == "runs/~x"
