import csv
import json
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from scipy.special import softmax
from toys import fill, read_outcome

from components.backbones.settings import Augment
from components.backbones.spec import parse_backbone
from components.export.explain import EXACT
from components.export.export import export_model
from components.export.settings import Abstain
from components.export.versions import list_versions, read_facts, read_note
from components.extract.extract import extract_bottlenecks
from components.extract.settings import EngineChoice
from components.features import BOTTLENECK_VIEWS
from components.metrics.calibration import NEVER_ANSWERS, choose_abstention
from components.outcomes import Bottlenecks, Examples, Head
from components.predict.predict import load_export
from components.run_dir import REFIT, RunDir
from components.shards.bottlenecks import load_vectors
from components.shards.records import IMAGE_SPEC, read_batches, shard_files
from components.storage.checksums import find_mismatch
from components.storage.files import write_json
from components.train.model import WHITEN
from components.train.normalization import scale_vectors
from components.train.settings import Architecture, Recipe
from components.train.train import read_source, train_head
from components.train.warm_start import BIASES, WEIGHTS, read_head


@pytest.fixture(scope="module")
def export(toy_run) -> Path:
    return list_versions(toy_run.exports)[-1]


def test_the_signatures_are_as_the_contract_says(export):
    model = tf.saved_model.load(str(export))
    assert set(model.signatures) == {"serving_default", "bottleneck", "explain"}
    assert list(model.signatures["serving_default"].structured_input_signature[1]) == ["image_bytes"]
    assert list(model.signatures["bottleneck"].structured_input_signature[1]) == ["bottleneck"]
    assert {*model.signatures["explain"].structured_input_signature[1]} == {"image_bytes", "class"}
    for name, signature in model.signatures.items():
        outputs = {name: spec.dtype for name, spec in signature.structured_outputs.items()}
        evidence = {"evidence": tf.float32} if name == "explain" else {}
        assert outputs == {"index": tf.int64, "label": tf.string, "probabilities": tf.float32, **evidence}
    assert model.signatures["explain"].structured_outputs["evidence"].shape[1:] == (4, 4)


def test_image_bytes_and_bottlenecks_give_the_same_index_for_every_test_image(toy_run, toy_config, export):
    with toy_run.predictions.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) > 10
    encoded = [(Path(toy_config["data"]["path"]) / row["path"]).read_bytes() for row in rows]
    outputs = tf.saved_model.load(str(export)).signatures["serving_default"](image_bytes=tf.constant(encoded))
    assert outputs["index"].numpy().tolist() == [int(row["index"]) for row in rows]
    assert [label.decode() for label in outputs["label"].numpy()] == [row["label"] for row in rows]
    best = outputs["probabilities"].numpy().max(1)
    np.testing.assert_allclose(best, [float(row["probability"]) for row in rows], atol=1e-5)


def test_evidence_of_every_test_image_is_its_logit_but_for_the_bias(export, toy_run):
    encoded, _, vectors = read_split(toy_run, "test")
    head = read_head(toy_run.model / REFIT)
    logits = scale_vectors(vectors, WHITEN, head) @ head[WEIGHTS]
    explain = tf.saved_model.load(str(export)).signatures["explain"]
    answers = load_signatures(export)(encoded, vectors)[0]
    for number, label in enumerate(["cyan", "magenta", "yellow"]):
        outputs = explain(image_bytes=tf.constant(encoded), **{"class": tf.constant([label] * len(encoded))})
        np.testing.assert_allclose(outputs["evidence"].numpy().mean((1, 2)), logits[:, number], atol=1e-4)
        for name, values in answers.items():
            np.testing.assert_array_equal(outputs[name].numpy(), values)
    predicted = explain(image_bytes=tf.constant(encoded), **{"class": tf.constant([""])})["evidence"].numpy()
    np.testing.assert_allclose(predicted.mean((1, 2)), logits[np.arange(len(logits)), answers["index"]], atol=1e-4)


def test_an_export_whose_card_says_nothing_of_evidence_is_of_an_earlier_version(export, tmp_path):
    assert read_note(export) == load_export(export).note == EXACT
    card = json.loads((export / "model_card.json").read_text())
    write_json(tmp_path / "model_card.json", {name: value for name, value in card.items() if name != "evidence"})
    assert "earlier version" in read_note(tmp_path) == read_facts(tmp_path)["evidence"]
    assert read_note(tmp_path / "without") == read_note(tmp_path)


def test_a_loaded_export_explains_any_number_of_classes_by_one_pass_of_the_network(export, toy_run):
    encoded = read_split(toy_run, "test")[0][:3].tolist()
    classifier = load_export(export)
    model = tf.saved_model.load(str(export)).signatures["explain"]
    wanted = [["cyan", "", "yellow"], ["magenta", "cyan", "cyan"], ["", "", "magenta"]]
    answers = classifier.explain(encoded, wanted)
    for place, names in enumerate(zip(*wanted, strict=True)):
        expected = model(image_bytes=tf.constant(encoded), **{"class": tf.constant(names)})
        found = [answer.evidence[place] for answer in answers]
        np.testing.assert_allclose(found, expected["evidence"].numpy(), atol=1e-4)
    for answer, plain, predicted in zip(answers, classifier.compute(encoded), classifier.explain(encoded), strict=True):
        np.testing.assert_allclose(answer.probabilities, plain.probabilities, atol=1e-6)
        assert plain.evidence is None and predicted.evidence.shape == (1, 4, 4)
    with pytest.raises(tf.errors.InvalidArgumentError, match="no class of this name"):
        classifier.explain(encoded, [["owl"]] * 3)


def test_the_labels_travel_with_the_model(export, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(export, moved)
    assert (moved / "assets" / "labels.txt").read_text() == "cyan\nmagenta\nyellow\n"
    assert load_export(moved).labels == ["cyan", "magenta", "yellow"]


def test_the_model_card_states_what_went_in(export, toy_run):
    card = json.loads((export / "model_card.json").read_text())
    assert card["classes"] == ["cyan", "magenta", "yellow"]
    assert sum(card["images"].values()) == json.loads(toy_run.record.read_text())["counts"]["written"]
    assert card["abstention"] is None and read_facts(export)["abstention"] is None


def read_split(run, split):
    """Return the images of a split as they were encoded, their labels, and their bottlenecks as they are served."""
    examples, bottlenecks = read_outcome(run, "ingest", Examples), read_outcome(run, "extract", Bottlenecks)
    images = list(read_batches(shard_files(run.examples, split, examples.shards), IMAGE_SPEC))
    encoded = np.concatenate([batch["image/encoded"] for batch in images])
    served = load_vectors(read_source(examples, bottlenecks, run, split))
    np.testing.assert_array_equal(served.labels, np.concatenate([batch["image/class/label"] for batch in images]))
    return encoded, served.labels, served.values[:, 0]


def load_signatures(export):
    """Return a function that says what a SavedModel makes of images and of their bottlenecks, as NumPy arrays."""
    model = tf.saved_model.load(str(export))

    def answer(encoded, vectors):
        by_image = model.signatures["serving_default"](image_bytes=tf.constant(encoded))
        by_vector = model.signatures["bottleneck"](bottleneck=tf.constant(vectors))
        return [{name: value.numpy() for name, value in outputs.items()} for outputs in (by_image, by_vector)]

    return answer


def predict_by_hand(folder, vectors):
    """Return the probabilities of the head in a folder."""
    head = read_head(folder)
    return softmax(scale_vectors(vectors, WHITEN, head) @ head[WEIGHTS] + head[BIASES], axis=1)


def test_the_head_that_was_trained_again_is_exported(export, toy_run):
    encoded, _, vectors = read_split(toy_run, "test")
    for outputs in load_signatures(export)(encoded, vectors):
        expected = predict_by_hand(toy_run.model / REFIT, vectors)
        np.testing.assert_allclose(outputs["probabilities"], expected, atol=1e-4)
    assert np.abs(expected - predict_by_hand(toy_run.model, vectors)).max() > 1e-2


def check_abstention(export, run):
    """Assert that a model abstains below the threshold of the head that did not see the val split; return its card."""
    answer = load_signatures(export)
    card = json.loads((export / "model_card.json").read_text())["abstention"]
    encoded, labels, vectors = read_split(run, "val")
    first = predict_by_hand(run.model, vectors)
    assert np.abs(answer(encoded, vectors)[1]["probabilities"] - first).max() > 1e-3
    chosen = choose_abstention(first.max(1), first.argmax(1) == labels, card["wanted"])
    assert chosen.threshold == pytest.approx(card["threshold"], abs=1e-4)
    assert (chosen.answered, chosen.images, chosen.precision) == (card["answered"], len(labels), card["precision"])
    assert chosen.answered > 0
    for split in ("val", "test"):
        encoded, labels, vectors = read_split(run, split)
        answers = answer(encoded, vectors)
        for outputs in answers:
            expected = outputs["probabilities"].max(1) < np.float32(card["threshold"])
            assert outputs["abstained"].tolist() == expected.tolist()
        by_image, by_vector = answers
        assert by_image["label"].tolist() == by_vector["label"].tolist()
        np.testing.assert_allclose(by_image["probabilities"], by_vector["probabilities"], atol=1e-5)
        far = np.abs(by_vector["probabilities"].max(1) - card["threshold"]) > 1e-4
        assert by_image["abstained"][far].tolist() == by_vector["abstained"][far].tolist()
    return card


@pytest.fixture
def export_again(toy_run, tmp_path):
    """Return a function that exports the toy run's model for a precision, in a copy of its folder."""
    shutil.copytree(toy_run.root, tmp_path / "run")
    run = RunDir(tmp_path / "run")
    outcomes = [
        read_outcome(run, stage, kind)
        for stage, kind in (("ingest", Examples), ("extract", Bottlenecks), ("train", Head))
    ]

    def export(precision):
        abstain = None if precision is None else Abstain(precision)
        outcome = export_model(*outcomes, Architecture(), Augment(), abstain, run)
        return run, outcome.folder(run)

    return export


def test_temporary_files_that_tensorflow_could_not_remove_are_not_exported(export_again, monkeypatch):
    real = tf.estimator.Estimator.export_saved_model

    def leave(*arguments):
        folder = real(*arguments)
        fill(Path(folder.decode()), "variables/variables_temp/part-0.index")
        return folder

    monkeypatch.setattr(tf.estimator.Estimator, "export_saved_model", leave)
    _, folder = export_again(None)
    assert sorted(file.name for file in (folder / "variables").iterdir()) == [
        "variables.data-00000-of-00001",
        "variables.index",
    ]
    assert not find_mismatch(folder)


@pytest.mark.parametrize("precision", [0.8, 0.95])
def test_the_model_abstains_below_the_threshold_in_its_card(export_again, precision):
    run, export = export_again(precision)
    card = check_abstention(export, run)
    assert card["wanted"] == precision <= card["precision"]
    assert read_facts(export)["abstention"]["threshold"] == card["threshold"]
    for signature in tf.saved_model.load(str(export)).signatures.values():
        outputs = {name: spec.dtype for name, spec in signature.structured_outputs.items() if name != "evidence"}
        assert outputs == {
            "index": tf.int64,
            "label": tf.string,
            "probabilities": tf.float32,
            "abstained": tf.bool,
        }


def test_a_precision_out_of_reach_leaves_a_model_that_never_answers(export_again):
    run, export = export_again(0.999)
    assert read_facts(export)["abstention"]["threshold"] == NEVER_ANSWERS
    encoded, _, vectors = read_split(run, "test")
    for outputs in load_signatures(export)(encoded, vectors):
        assert outputs["abstained"].all()


def test_the_threshold_of_a_model_that_averages_is_measured_on_the_averages(
    toy_config, toy_run, tmp_path, options, progress
):
    run = RunDir(tmp_path / "run")
    shutil.copytree(toy_run.examples, run.examples)
    examples = read_outcome(toy_run, "ingest", Examples)
    augment = Augment(flip=True, crops=2, crop_side=0.8, average=True)
    specs = parse_backbone(toy_config["backbone"])
    bottlenecks = extract_bottlenecks(examples, specs, EngineChoice(), augment, run, options, progress)
    recipe = Recipe(epochs=8, batch_size=16, learning_rate=0.05)
    head = train_head(examples, bottlenecks, run, Architecture(), recipe, progress)
    export = export_model(examples, bottlenecks, head, Architecture(), augment, Abstain(0.8), run).folder(run)
    for name, outcome in (("ingest", examples), ("extract", bottlenecks)):
        write_json(run.stages / f"{name}.json", {"outcome": asdict(outcome)})
    check_abstention(export, run)
    # The bottlenecks of all views are kept beside: those served are their mean.
    spec = {BOTTLENECK_VIEWS: tf.io.FixedLenFeature([bottlenecks.view_count, bottlenecks.dim], tf.float32)}
    files = shard_files(bottlenecks.folder(run), "val", examples.shards)
    views = np.concatenate([batch[BOTTLENECK_VIEWS] for batch in read_batches(files, spec)])
    views /= np.linalg.norm(views, axis=2, keepdims=True)
    _, _, served = read_split(run, "val")
    np.testing.assert_allclose(served, views.mean(1), atol=1e-5)
    assert not np.allclose(served, views[:, 0], atol=1e-3)
