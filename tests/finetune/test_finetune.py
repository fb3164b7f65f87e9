"""Fine-tuning a toy network that cannot tell colours, with the data set whose classes are colours."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from toys import COLOURS, paint_images, quiet_progress, read_outcome, refusal, write_config

from components.audit.similarity import to_embeddings
from components.backbones.prepare import BackboneSession, load_graph, read_backbone
from components.errors import DamagedShard
from components.export.versions import list_versions
from components.features import SPLITS
from components.finetune import finetune
from components.finetune.finetune import finetune_backbone, plan_tuning
from components.finetune.settings import TunedRecipe, Tuning
from components.outcomes import Bottlenecks, Examples, Head, TunedHead
from components.predict.predict import load_export
from components.run_dir import REFIT, RunDir
from components.serve.neighbours import load_training_images
from components.shards.bottlenecks import read_bottlenecks
from components.shards.records import IMAGE_SPEC, read_batches, shard_files
from components.storage.files import PARTIAL
from components.train.optimization import CONSTANT, SGD
from components.train.settings import Architecture, Recipe, Schedule
from pipeline.cli import main

v1 = tf.compat.v1

KERNELS = ["network/blur/kernel", "network/mix/kernel"]
HEAD = ["final_training_ops/weights", "final_training_ops/biases"]
NONE = {"flip": False, "crop": 1.0, "colour": 0.0}
RATES = {"layers": 1, "learning_rate": 0.05, "head_learning_rate": 0.03, "epochs": 16, "batch_size": 16}


def add_convolutions(pixels, blind):
    """Map pixels float32[N, 32, 32, 3] to float32[N, 8] by two convolutions; blind ones see brightness only."""
    random = np.random.default_rng(0)
    blur = np.zeros((3, 3, 3, 3), np.float32)
    blur[..., range(3), range(3)] = 1 / 9
    mix = random.normal(0, 1, (1, 1, 1 if blind else 3, 8)).astype(np.float32).repeat(3 if blind else 1, 2)
    bias = random.normal(0, 0.3, 8).astype(np.float32)
    values = tf.nn.relu(tf.nn.conv2d(pixels + 1, tf.constant(blur, name="blur/kernel"), 2, "SAME", name="blur"))
    mixed = tf.nn.conv2d(values, tf.constant(mix, name="mix/kernel"), 1, "SAME", name="mix")
    return tf.reduce_mean(tf.nn.bias_add(mixed, tf.constant(bias, name="mix/bias")), [1, 2])


def write_backbone_config(path, blind):
    """Write the two convolutions as a frozen graph; return the backbone as a config names it."""
    with tf.Graph().as_default() as graph:
        tf.identity(add_convolutions(v1.placeholder(tf.float32, [None, 32, 32, 3], "input"), blind), "features")
    path.write_bytes(graph.as_graph_def().SerializeToString())
    return {"frozen_graph": str(path), "input": "input", "bottleneck": "features", "scale": [-1, 1]}


@pytest.fixture(scope="module")
def blind_config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("blind")
    return {
        "name": "blind",
        "output_dir": str(folder / "run"),
        "data": {"path": str(paint_images(folder / "images", per_class=60))},
        "backbone": write_backbone_config(folder / "blind.pb", blind=True),
        "extract": {"engine": "tensorflow"},
        "head": {"normalize": "l2"},
        "train": {"epochs": 8, "batch_size": 16, "learning_rate": 0.05, "l2": 0.001, "finetune": RATES},
        "evaluate": {"thresholds": {"accuracy": 0.6}},
        "beam": {"shards": 2},
    }


@pytest.fixture(scope="module")
def tuned_run(blind_config, tmp_path_factory):
    """A finished run with fine-tuning; tests must not change it."""
    assert main(["run", str(write_config(tmp_path_factory.mktemp("config") / "c.yaml", **blind_config))]) == 0
    return RunDir(Path(blind_config["output_dir"]))


def copy_run(run, tmp_path):
    return RunDir(Path(shutil.copytree(run.root, tmp_path / "run")))


def read_csv(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def read_constants(folder):
    return {
        node.name: tf.make_ndarray(node.attr["value"].tensor) for node in load_graph(folder).node if node.op == "Const"
    }


def read_variables(folder, names):
    reader = tf.train.load_checkpoint(str(folder))
    return [reader.get_tensor(name) for name in names]


def answer(bottlenecks, weights, biases):
    """Return the probabilities of a linear head over bottlenecks of length sqrt(D)."""
    scaled = bottlenecks / np.linalg.norm(bottlenecks, axis=1, keepdims=True) * bottlenecks.shape[1] ** 0.5
    return tf.nn.softmax(scaled @ weights + biases).numpy()


def tune(run, recipe=None, seed=0, into=None, **changes):
    """Fine-tune from a run's outcomes, leaving its results in a copy where one is given."""
    examples, bottlenecks = read_outcome(run, "ingest", Examples), read_outcome(run, "extract", Bottlenecks)
    head = replace(read_outcome(run, "train", Head), **({"l2": changes.pop("l2")} if "l2" in changes else {}))
    recipe = TunedRecipe(**{**vars(recipe or Recipe()), "seed": seed, "finetune": Tuning(**{**RATES, **changes})})
    return finetune_backbone(
        examples, bottlenecks, head, into or run, Architecture(normalize="l2"), recipe, quiet_progress()
    )


def test_fine_tuning_learns_what_the_head_alone_cannot(tuned_run):
    head, tuned = read_outcome(tuned_run, "train", Head), read_outcome(tuned_run, "finetune", TunedHead)
    assert head.val_accuracy < 0.6 < 0.8 < tuned.val_accuracy
    record = json.loads(tuned_run.record.read_text())
    assert record["metrics"]["accuracy"] > 0.8
    assert head.refit and tuned.exported(tuned_run) == tuned_run.finetuned
    former = read_outcome(tuned_run, "extract", Bottlenecks)
    assert record["backbone"]["id"] == former.backbone_id
    name = f"{former.backbone_name}, last layer fine-tuned"
    assert record["backbone"]["fine_tuned"] == {"name": name, "id": tuned.backbone_id}
    assert list(record["stages"]) == [
        *("ingest", "validate", "extract", "audit", "train", "finetune", "reextract", "export", "evaluate", "report")
    ]


def test_the_nearest_of_a_tuned_model_go_by_the_bottlenecks_of_the_audit(tuned_run, blind_config):
    training = load_training_images(list_versions(tuned_run.exports)[-1])
    bottlenecks = read_outcome(tuned_run, "extract", Bottlenecks)
    files = [file for split in SPLITS for file in shard_files(bottlenecks.folder(tuned_run), split, [2])]
    table = read_bottlenecks(files, bottlenecks.dim)
    count = len(training.images)
    assert [key for key, *_ in training.images] == table.keys[:count]
    np.testing.assert_allclose(training.directions, to_embeddings(table.vectors)[:count], atol=1e-5)
    encoded = [(Path(blind_config["data"]["path"]) / key).read_bytes() for key in table.keys[:4]]
    np.testing.assert_allclose(training.session.compute_bottlenecks(encoded), table.vectors[:4], atol=1e-4)


def test_the_history_begins_with_the_head_alone(tuned_run):
    head, tuned = read_outcome(tuned_run, "train", Head), read_outcome(tuned_run, "finetune", TunedHead)
    rows = read_csv(tuned_run.finetuned / "history.csv")
    assert list(rows[0]) == list(read_csv(tuned_run.history)[0])
    assert [int(row["epoch"]) for row in rows] == list(range(17))
    assert float(rows[0]["val_accuracy"]) == pytest.approx(head.val_accuracy, abs=1e-5)
    assert float(rows[0]["val_loss"]) == pytest.approx(head.val_loss, abs=1e-4)
    best = max(rows, key=lambda row: (float(row["val_accuracy"]), -float(row["val_loss"])))
    assert int(best["epoch"]) == tuned.best_epoch > 0
    assert read_csv(tuned_run.report / "history.csv") == rows


def test_only_the_weights_of_the_last_layer_have_changed(tuned_run):
    before = tuned_run.backbones / read_outcome(tuned_run, "extract", Bottlenecks).backbone_id
    after = tuned_run.backbones / read_outcome(tuned_run, "finetune", TunedHead).backbone_id
    one, two = read_constants(before), read_constants(after)
    assert one.keys() == two.keys()
    changed = {name for name, value in one.items() if not np.array_equal(value, two[name])}
    assert changed == {"network/mix/kernel", "network/mix/bias"}
    for name, value in zip(sorted(changed), read_variables(tuned_run.finetuned, sorted(changed)), strict=True):
        np.testing.assert_array_equal(two[name], value)
    backbone = read_backbone(after)
    assert (backbone.dim, backbone.size, backbone.labels) == (8, 32, ())


def test_the_served_model_answers_as_plain_tensorflow_with_the_tuned_weights(tuned_run, blind_config):
    rows = read_csv(tuned_run.predictions)
    encoded = [(Path(blind_config["data"]["path"]) / row["path"]).read_bytes() for row in rows]
    images = [tf.image.resize(tf.io.decode_image(e, 3, expand_animations=False), [32, 32]) for e in encoded]
    folder = tuned_run.backbones / read_outcome(tuned_run, "finetune", TunedHead).backbone_id
    values = read_constants(folder)
    blurred = tf.nn.relu(tf.nn.conv2d(np.stack(images) / 127.5, values["network/blur/kernel"], 2, "SAME"))
    mixed = tf.nn.conv2d(blurred, values["network/mix/kernel"], 1, "SAME") + values["network/mix/bias"]
    expected = answer(tf.reduce_mean(mixed, [1, 2]).numpy(), *read_variables(tuned_run.finetuned, HEAD))
    (export,) = list_versions(tuned_run.exports)
    served = tf.saved_model.load(str(export)).signatures["serving_default"](image_bytes=tf.constant(encoded))
    np.testing.assert_allclose(served["probabilities"].numpy(), expected, atol=1e-4)
    assert served["index"].numpy().tolist() == [int(row["index"]) for row in rows]
    assert load_export(export).labels == sorted(COLOURS)
    card = json.loads((export / "model_card.json").read_text())
    assert card["backbone"]["name"].endswith("blind.pb, last layer fine-tuned")


def test_the_report_shows_both_trainings(tuned_run):
    page = (tuned_run.report / "index.html").read_text()
    for title in ("loss of the head alone", "accuracy of the head alone", "loss while fine-tuning"):
        assert f'"text":"{title}"' in page
    assert "blind.pb, last layer fine-tuned" in page and "No epoch of fine-tuning" not in page


def test_a_run_does_again_what_it_must_and_no_more(tuned_run, blind_config, tmp_path, capsys):
    run = copy_run(tuned_run, tmp_path)
    config = str(write_config(tmp_path / "c.yaml", **{**blind_config, "output_dir": str(run.root)}))

    def stages_run(*arguments):
        main(["run", config, *arguments])
        return [name for name, stage in json.loads(run.record.read_text())["stages"].items() if not stage["skipped"]]

    served = ["export", "evaluate", "report"]
    assert stages_run() == []
    assert stages_run("train.finetune.epochs=5") == ["finetune", "reextract", *served]
    assert stages_run("train.finetune.epochs=5") == []
    assert stages_run("train.finetune.epochs=5", "--only", "reextract") == ["reextract"]
    assert read_outcome(run, "reextract", Bottlenecks).work.computed == 0
    assert stages_run("train.finetune=null") == served
    assert "fine_tuned" not in json.loads(run.record.read_text())["backbone"]
    assert stages_run("train.finetune.epochs=5", "--from", "finetune") == ["finetune", "reextract", *served]
    assert stages_run("train.finetune.epochs=5", "train.epochs=7") == ["train", "finetune", "reextract", *served]


def test_one_seed_gives_identical_weights(tuned_run, tmp_path):
    first = read_outcome(tuned_run, "finetune", TunedHead)
    run = copy_run(tuned_run, tmp_path)
    recipe = Recipe(epochs=8, batch_size=16, learning_rate=0.05)
    again = tune(run, recipe)
    assert again == first
    for one, two in zip(
        *(read_variables(folder, [*HEAD, KERNELS[1]]) for folder in (tuned_run.finetuned, run.finetuned)), strict=False
    ):
        np.testing.assert_array_equal(one, two)
    assert tune(run, recipe, seed=1).backbone_id != first.backbone_id


def test_a_step_is_that_of_plain_tensorflow_and_l2_pulls_at_the_head_alone(tuned_run, tmp_path, monkeypatch):
    for module in ("train.estimator", "finetune.finetune"):
        monkeypatch.setattr(f"components.{module}.epoch_rank", lambda epoch: (epoch.epoch, 0))
    run = copy_run(tuned_run, tmp_path)
    examples, bottlenecks = read_outcome(run, "ingest", Examples), read_outcome(run, "extract", Bottlenecks)
    folder = run.backbones / bottlenecks.backbone_id
    images = list(read_batches(shard_files(run.examples, "train", examples.shards), IMAGE_SPEC))
    labels = np.concatenate([batch["image/class/label"] for batch in images])
    session = BackboneSession(folder)
    pixels = np.concatenate([session.decode(list(batch["image/encoded"]))[0] for batch in images])
    blurred = session.run("network/Relu", "pixels", pixels)
    values = read_constants(folder)
    variables = [tf.Variable(value) for value in (values["network/mix/kernel"], values["network/mix/bias"])]
    variables += [tf.Variable(value) for value in read_variables(run.model, HEAD)]
    weights = np.where(labels == 0, 3.0, 1.0)
    weights /= weights.mean()
    with tf.GradientTape() as tape:
        kernel, bias, head, biases = variables
        bottleneck = tf.reduce_mean(tf.nn.conv2d(blurred, kernel, 1, "SAME") + bias, [1, 2])
        logits = tf.nn.l2_normalize(bottleneck, -1) * 8**0.5 @ head + biases
        loss = tf.keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)
        total = loss(tf.one_hot(labels, 3), logits, weights) + 0.5 * tf.nn.l2_loss(head)
    gradients = tape.gradient(total, variables)
    recipe = Recipe(
        optimizer=SGD, schedule=Schedule(CONSTANT), label_smoothing=0.1, class_weight={examples.labels[0]: 3}
    )
    step = {"learning_rate": 0.002, "head_learning_rate": 0.001, "epochs": 1, "batch_size": len(labels), "l2": 0.5}
    tune(run, recipe, **NONE, **step)
    found = read_variables(run.finetuned, ["network/mix/kernel", "network/mix/bias", *HEAD])
    for rate, variable, gradient, new in zip((0.002, 0.002, 0.001, 0.001), variables, gradients, found, strict=True):
        assert np.abs(gradient).max() > 1e-4
        np.testing.assert_allclose((variable - new) / rate, gradient, rtol=0.02, atol=1e-3)


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_damaged_shard_is_named_and_what_was_there_stays(tuned_run, tmp_path, split):
    run = copy_run(tuned_run, tmp_path)
    history = (run.finetuned / "history.csv").read_bytes()
    path = run.examples / f"{split}-00001-of-00002.tfrecord"
    content = bytearray(path.read_bytes())
    content[200] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedShard) as caught:
        tune(run)
    assert caught.value.path == str(path)
    assert (run.finetuned / "history.csv").read_bytes() == history
    assert not list(run.root.glob(f"*{PARTIAL}"))


def test_a_damaged_shard_is_read_again_by_the_run(tuned_run, blind_config, tmp_path, capsys):
    run = copy_run(tuned_run, tmp_path)
    path = run.examples / "train-00000-of-00002.tfrecord"
    healthy = path.read_bytes()
    path.write_bytes(healthy[:200] + bytes([healthy[200] ^ 1]) + healthy[201:])
    config = str(write_config(tmp_path / "c.yaml", **{**blind_config, "output_dir": str(run.root)}))
    main(["run", config, "train.finetune.epochs=2"])
    assert f"'{path}' was damaged and is computed again" in capsys.readouterr().err
    assert path.read_bytes() == healthy


@pytest.fixture(scope="module")
def seeing_config(blind_config, tmp_path_factory):
    """As blind_config, with a backbone that tells colours and rates that spoil it."""
    folder = tmp_path_factory.mktemp("seeing")
    finetune = {**RATES, "learning_rate": 3, "head_learning_rate": 30, "epochs": 2}
    return {
        **blind_config,
        "backbone": write_backbone_config(folder / "seeing.pb", blind=False),
        "output_dir": str(folder / "run"),
        "train": {**blind_config["train"], "finetune": finetune},
    }


def test_where_no_epoch_is_better_the_head_alone_is_served(seeing_config, tmp_path, capsys):
    config = str(write_config(tmp_path / "c.yaml", **seeing_config))
    assert main(["run", config]) == 0
    assert "note: No epoch of fine-tuning was better" in capsys.readouterr().out
    run = RunDir(Path(seeing_config["output_dir"]))
    tuned, head = read_outcome(run, "finetune", TunedHead), read_outcome(run, "train", Head)
    assert tuned.best_epoch == 0
    assert tuned.exported(run) == run.model / REFIT
    assert (tuned.val_accuracy, tuned.val_loss) == pytest.approx((head.val_accuracy, head.val_loss), abs=1e-4)
    assert tuned.backbone_id == read_outcome(run, "extract", Bottlenecks).backbone_id
    assert [folder.name for folder in run.backbones.iterdir()] == [tuned.backbone_id]
    record = json.loads(run.record.read_text())
    assert "reextract" not in record["stages"] and "fine_tuned" not in record["backbone"]
    page = (run.report / "index.html").read_text()
    assert "No epoch of fine-tuning was better" in page and "best epoch 0 (the head at the start of training)" in page
    for one, two in zip(read_variables(run.finetuned, HEAD), read_variables(run.model, HEAD), strict=True):
        np.testing.assert_array_equal(one, two)
    predictions = read_csv(run.predictions)
    assert main(["run", config]) == 0
    assert all(stage["skipped"] for stage in json.loads(run.record.read_text())["stages"].values())
    assert main(["run", config, "train.finetune=null"]) == 0
    again = read_csv(run.predictions)
    assert len(again) == len(predictions)
    # Beam cuts batches by the time that they take, and the sixth decimal may differ with what is beside an image.
    for one, two in zip(predictions, again, strict=True):
        shares = [key for key in one if key.startswith("probability")]
        assert {**one, **dict.fromkeys(shares)} == {**two, **dict.fromkeys(shares)}
        assert [float(one[key]) for key in shares] == pytest.approx([float(two[key]) for key in shares], abs=2e-6)


def test_a_tuned_model_that_averages_views_serves_what_was_measured(blind_config, tmp_path):
    augment = {"flip": True, "crops": 2, "average": True}
    values = {**blind_config, "augment": augment, "output_dir": str(tmp_path / "run")}
    assert main(["run", str(write_config(tmp_path / "c.yaml", **values))]) == 0
    run = RunDir(tmp_path / "run")
    assert read_outcome(run, "reextract", Bottlenecks).view_count == 4
    rows = read_csv(run.predictions)
    encoded = [(Path(blind_config["data"]["path"]) / row["path"]).read_bytes() for row in rows]
    model = tf.saved_model.load(str(list_versions(run.exports)[-1]))
    served = model.signatures["serving_default"](image_bytes=tf.constant(encoded))
    assert served["index"].numpy().tolist() == [int(row["index"]) for row in rows]
    np.testing.assert_allclose(
        served["probabilities"].numpy().max(1), [float(row["probability"]) for row in rows], atol=1e-4
    )


def test_an_application_is_tuned_behind_a_layer(blind_config, tmp_path):
    backbone = {"keras": "MobileNetV2", "weights": "none", "size": 64, "layer": "block_3_expand_relu"}
    rates = {"from": "model/block_2_add/add", "learning_rate": 0.0003, "head_learning_rate": 0.003, "epochs": 10}
    values = {**blind_config, "backbone": backbone, "output_dir": str(tmp_path / "run")}
    values |= {"train": {"epochs": 1, "learning_rate": 1e-5, "l2": 0.001, "finetune": rates}}
    values |= {"evaluate": {"thresholds": {"accuracy": 0.0}}}
    assert main(["run", str(write_config(tmp_path / "c.yaml", **values))]) == 0
    run = RunDir(tmp_path / "run")
    tuned, former = read_outcome(run, "finetune", TunedHead), read_outcome(run, "extract", Bottlenecks)
    one, two = (read_constants(run.backbones / name) for name in (former.backbone_id, tuned.backbone_id))
    changed = [name for name in one if not np.array_equal(one[name], two[name])]
    assert changed and all("block_3_expand" in name for name in changed)
    assert read_backbone(run.backbones / tuned.backbone_id).name.endswith(
        "layers after model/block_2_add/add fine-tuned"
    )


def test_layers_that_are_not_there_are_the_users_mistake(tuned_run, tmp_path):
    run = copy_run(tuned_run, tmp_path)
    assert "layers is 3, but the backbone has 2" in refusal(lambda: tune(run, layers=3))
    assert "no layer or tensor 'mux'" in refusal(lambda: tune(run, layers=None, behind="mux"))


def test_a_training_that_diverges_names_the_rate_to_lower(tuned_run, tmp_path):
    run = copy_run(tuned_run, tmp_path)
    words = refusal(lambda: tune(run, Recipe(optimizer=SGD), head_learning_rate=1e30))
    assert "lower train.finetune.learning_rate" in words


def test_the_steps_of_the_heads_training_are_not_those_of_fine_tuning(tuned_run):
    examples, bottlenecks = read_outcome(tuned_run, "ingest", Examples), read_outcome(tuned_run, "extract", Bottlenecks)
    head = read_outcome(tuned_run, "train", Head)
    tuning = Tuning(**RATES)
    planned = plan_tuning(examples, bottlenecks, head, tuned_run, Recipe(steps=1), tuning)
    assert planned.steps == RATES["epochs"] * -(-examples.splits["train"] // RATES["batch_size"])


def test_patience_ends_fine_tuning_early(tuned_run, tmp_path):
    run = copy_run(tuned_run, tmp_path)
    outcome = tune(run, learning_rate=1e-12, head_learning_rate=30.0, epochs=20, patience=2)
    assert int(read_csv(run.finetuned / "history.csv")[-1]["epoch"]) == outcome.best_epoch + 2 < 20


def test_half_precision_is_for_gpus_alone_and_scales_the_loss(tuned_run, tmp_path, monkeypatch):
    sessions = []
    make = finetune.HeadClassifier

    def classifier(*arguments):
        sessions.append(arguments[-1])
        return make(*arguments)

    monkeypatch.setattr(finetune, "HeadClassifier", classifier)
    run = copy_run(tuned_run, tmp_path)
    plain = tune(run)
    monkeypatch.setattr(finetune, "has_gpu", lambda: True)
    assert tune(run) == plain  # there is none: the pass leaves the graph alone, and a power of two changes no digit
    rewrites = sessions[1].graph_options.rewrite_options
    assert sessions[0] is None and rewrites.auto_mixed_precision == type(rewrites).ON


def test_the_events_do_not_hold_the_backbone(tuned_run):
    for file in tuned_run.finetuned.rglob("events*"):
        for event in v1.train.summary_iterator(str(file)):
            graph_def = v1.GraphDef.FromString(event.graph_def)
            assert not any(node.attr["value"].tensor.tensor_content for node in graph_def.node if node.op == "Const")
