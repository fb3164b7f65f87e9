import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_model_analysis as tfma
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, log_loss, recall_score, top_k_accuracy_score
from toys import read_outcome, refusal

from components import features
from components.evaluate import evaluate
from components.evaluate import tfma_analysis as model_analysis
from components.evaluate.evaluate import evaluate_model, explain_missing_baseline, find_baseline, find_last_blessed
from components.evaluate.settings import ModelGate, Thresholds
from components.evaluate.tfma_analysis import read_confusion, read_slice_metrics
from components.export.versions import list_versions
from components.outcomes import Bottlenecks, Examples, Export, Head, Work
from components.run_dir import RunDir
from components.shards.bottlenecks import read_bottlenecks
from components.shards.records import shard_files
from components.storage.tables import read_csv
from components.train.inputs import evaluate_from_memory
from components.train.settings import Architecture
from components.train.train import load_classifier
from components.train.warm_start import BIASES, WEIGHTS


@pytest.fixture(scope="module")
def outcomes(toy_run):
    def read(stage, kind):
        values = json.loads((toy_run.stages / f"{stage}.json").read_text())["outcome"]
        return kind(**{**values, "work": Work(**values["work"])})

    return read("ingest", Examples), read("extract", Bottlenecks), read("export", Export)


@pytest.fixture(scope="module")
def test_table(toy_run, outcomes):
    examples, bottlenecks, _ = outcomes
    return read_bottlenecks(
        shard_files(toy_run.bottlenecks(bottlenecks.backbone_id), "test", examples.shards), bottlenecks.dim
    )


@pytest.fixture(scope="module")
def predicted(toy_run, outcomes, test_table, tmp_path_factory):
    # Of a copy: evaluation writes a file of events to the model's folder.
    copy = RunDir(tmp_path_factory.mktemp("copy") / "run")
    shutil.copytree(toy_run.root, copy.root)
    head = read_outcome(copy, "train", Head)
    classifier = load_classifier(outcomes[0], outcomes[1], head.exported(copy), copy, Architecture())
    predictions = list(classifier.predict(evaluate_from_memory(test_table.vectors, test_table.labels).input_fn))
    probabilities = np.array([prediction["probabilities"] for prediction in predictions], np.float64)
    return classifier, probabilities / probabilities.sum(1, keepdims=True)


def test_tfma_the_estimator_and_the_confusion_matrix_agree(toy_run, test_table, predicted):
    classifier, probabilities = predicted
    metrics = json.loads((toy_run.evaluation / "BLESSED").read_text())["metrics"]
    estimated = classifier.evaluate(evaluate_from_memory(test_table.vectors, test_table.labels).input_fn)
    confusion = read_confusion(toy_run.evaluation, 3)
    assert metrics["accuracy"] == pytest.approx(estimated["accuracy"], abs=1e-6)
    assert metrics["accuracy"] == pytest.approx(np.trace(confusion) / confusion.sum(), abs=1e-6)
    np.testing.assert_array_equal(confusion, confusion_matrix(test_table.labels, probabilities.argmax(1)))
    assert metrics["loss"] == pytest.approx(log_loss(test_table.labels, probabilities), abs=1e-5)
    assert metrics["top5"] == pytest.approx(top_k_accuracy_score(test_table.labels, probabilities, k=3))
    predicted = test_table.labels, probabilities.argmax(1)
    assert metrics["mean_class_accuracy"] == pytest.approx(balanced_accuracy_score(*predicted))
    assert metrics["min_class_recall"] == pytest.approx(recall_score(*predicted, average=None).min())


@pytest.mark.parametrize("feature", [features.TEXT, features.SOURCE])
def test_slices_agree_with_a_plain_count(toy_run, test_table, predicted, feature):
    values = np.array(test_table.texts if feature == features.TEXT else test_table.sources)
    right = predicted[1].argmax(1) == test_table.labels
    slices = read_slice_metrics(toy_run.evaluation, feature)
    assert set(slices) == set(values)
    for value, row in slices.items():
        assert row["count"] == (values == value).sum()
        assert row["accuracy"] == pytest.approx(right[values == value].mean(), abs=1e-6)


def test_predictions_have_a_row_for_every_test_image_in_order(toy_run, test_table):
    with toy_run.predictions.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == sorted(test_table.keys)
    assert list(rows[0])[:4] == ["path", "label", "probability", "index"]


def test_a_blessed_model_leaves_its_mark_in_both_places(toy_run):
    assert (toy_run.evaluation / "BLESSED").exists()
    (version,) = list_versions(toy_run.exports)
    assert json.loads((version / "BLESSED").read_text())["reasons"] == []


def turn_round(weights):
    return weights[..., ::-1]


def silence_magenta(weights):
    weights = weights.copy()
    weights[..., 1] = -1e4 if weights.ndim == 1 else 0
    return weights


def spoil(export: Path, target: Path, change):
    """Copy an export with the weights and biases of its classes, the last axis, changed."""
    shutil.copytree(export, target)
    (target / "BLESSED").unlink(missing_ok=True)
    checkpoint = str(target / "variables" / "variables")
    reader = tf.train.load_checkpoint(checkpoint)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        variables = []
        for name in reader.get_variable_to_shape_map():
            value = reader.get_tensor(name)
            value = change(value) if name in (WEIGHTS, BIASES) else value
            variables.append(tf.compat.v1.get_variable(name, initializer=value, use_resource=False))
        session.run(tf.compat.v1.global_variables_initializer())
        tf.compat.v1.train.Saver(variables).save(session, checkpoint, write_meta_graph=False, write_state=False)


@pytest.fixture
def judge(toy_run, outcomes, options, tmp_path):
    """Evaluate the toy run's export again in a copy of the run, with other limits."""
    copy = RunDir(tmp_path / "run")
    shutil.copytree(toy_run.root, copy.root)

    def run(thresholds, drop=None, export=None, wrong=None):
        gate = ModelGate(Thresholds(**thresholds), drop, wrong)
        return evaluate_model(*outcomes[:2], export or outcomes[2], gate, copy, options)

    return copy, run


def test_without_limits_a_model_is_not_gated_and_nothing_to_compare_with(judge):
    copy, run = judge
    outcome = run({})
    assert (outcome.verdict, outcome.gated, outcome.blessed) == ("NOT GATED", False, False)
    assert outcome.reasons == [evaluate.NO_GATE]
    assert (copy.evaluation / "NOT_GATED").exists()
    assert not (copy.evaluation / "BLESSED").exists() and not (copy.evaluation / "NOT_BLESSED").exists()
    assert find_last_blessed(copy.exports, copy.exports / "99999999999") is None


@pytest.mark.parametrize("name", ["mean_class_accuracy", "min_class_recall"])
def test_recalls_of_the_classes_are_limits_of_their_own(judge, predicted, test_table, name):
    _, run = judge
    labels, answers = test_table.labels, predicted[1].argmax(1)
    recalls = recall_score(labels, answers, average=None)
    reached = recalls.min() if name == "min_class_recall" else recalls.mean()
    assert recalls.min() < recalls.mean() < 1
    assert run({name: reached - 1e-6}).verdict == "BLESSED"
    outcome = run({"accuracy": 0.1, name: reached + 1e-3})
    weakest = recalls.argmin()
    of_class = f" (class '{sorted(set(test_table.texts))[weakest]}', {(labels == weakest).sum()} test images)"
    assert outcome.verdict == "NOT BLESSED"
    assert outcome.reasons == [
        f"{name} is {reached:.4f}{of_class if name == 'min_class_recall' else ''}, at least {reached + 1e-3:g} was "
        f"asked for"
    ]


def test_a_model_that_stricter_limits_refuse_is_no_longer_the_last_blessed_one(judge):
    copy, run = judge
    (version,) = list_versions(copy.exports)
    assert (version / "BLESSED").exists()
    assert not run({"loss": 1e-9}).blessed
    assert find_last_blessed(copy.exports, copy.exports / "99999999999") is None


def test_a_missed_threshold_is_named_with_what_was_reached(judge):
    _, run = judge
    outcome = run({"accuracy": 1.0, "loss": 0.0001, "top5": 0.5})
    assert not outcome.blessed
    assert any("loss is" in reason and "at most 0.0001" in reason for reason in outcome.reasons)
    assert not any("top5" in reason for reason in outcome.reasons)


def test_a_first_model_with_nothing_to_compare_it_with_is_blessed_and_says_so(judge):
    copy, run = judge
    (version,) = list_versions(copy.exports)
    assert find_baseline(copy.exports, version) is None
    outcome = run({}, drop=0.0)
    assert (outcome.verdict, outcome.gated, outcome.blessed) == ("BLESSED (nothing was compared)", True, True)
    reason = "max_accuracy_drop was not checked, as there is no earlier blessed model in this run directory"
    assert outcome.reasons == [reason]
    for file in (copy.evaluation / "BLESSED", version / "BLESSED"):
        assert json.loads(file.read_text())["reasons"] == [reason]
    validation = tfma.load_validation_result(str(copy.evaluation))
    assert validation.rubber_stamp and validation.validation_ok
    limited = run({"accuracy": 0.1}, drop=0.0)
    assert (limited.verdict, limited.reasons) == ("BLESSED", [])
    assert f"{reason}." in limited.warnings


@pytest.mark.parametrize("sign", [1, -1])
def test_a_model_that_serves_other_answers_than_were_measured_is_not_blessed(judge, outcomes, options, sign):
    copy, _ = judge
    examples, bottlenecks, export = outcomes
    engine = replace(bottlenecks, engine=features.OPENVINO_BF16)
    for file in bottlenecks.folder(copy).glob("*.tfrecord"):
        engine.folder(copy).mkdir(exist_ok=True)
        with tf.io.TFRecordWriter(str(engine.folder(copy) / file.name)) as writer:
            for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator():
                example = tf.train.Example.FromString(record)
                vector = example.features.feature[features.BOTTLENECK].float_list.value
                vector[:] = [sign * value for value in vector]
                writer.write(example.SerializeToString())
    outcome = evaluate_model(examples, engine, export, ModelGate(Thresholds(accuracy=0.01)), copy, options)
    verdict = json.loads((copy.evaluation / ("BLESSED" if sign == 1 else "NOT_BLESSED")).read_text())
    served, images = verdict["served"], examples.splits["test"]
    assert served["images"] == min(images, 200)
    if sign == 1:
        assert outcome.blessed and served["agreeing"] == images and served["probability_change"] < 1e-5
    else:
        (reason,) = outcome.reasons
        assert f"gives {served['agreeing']} of {images} test images the class" in reason
        assert served["agreeing"] < 0.9 * images and "extract.engine" in reason


def add_blessed(exports, version, **facts):
    """Write what is read of a blessed export: its card and its mark."""
    folder = exports / version
    folder.mkdir(parents=True)
    backbone = {"name": "toy", "id": "a1", "dim": 4}
    values = {"backbone": backbone, "classes": ["ant", "bee"], "images": {}, "validation": {}, "abstention": None}
    (folder / "model_card.json").write_text(json.dumps({**values, **facts}))
    (folder / "saved_model.pb").touch()
    (folder / "BLESSED").touch()
    return folder


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"classes": ["ant", "cat", "dog"]}, "has other classes (new: 'bee'; gone: 'cat', 'dog')"),
        ({"classes": ["ant"]}, "has other classes (new: 'bee')"),
        ({"classes": ["bee", "ant"]}, "has its classes in another order"),
        ({"backbone": {"name": "old", "id": "b2", "dim": 4}}, "has another backbone (old, id b2)"),
        (
            {"backbone": {"name": "old", "id": "b2", "dim": 4}, "classes": ["ant"]},
            "has another backbone (old, id b2) and other classes (new: 'bee')",
        ),
    ],
)
def test_blessed_models_of_another_kind_are_told_from_none_at_all(tmp_path, facts, words):
    add_blessed(tmp_path, "11", **facts)
    candidate = add_blessed(tmp_path, "12")
    assert find_baseline(tmp_path, candidate) is None
    found = explain_missing_baseline(tmp_path, candidate)
    assert found.endswith(f"the last one, export 11, {words}")


def test_a_class_that_is_never_answered_is_named(judge):
    copy, run = judge
    spoil(list_versions(copy.exports)[0], copy.exports / "99999999999", silence_magenta)
    outcome = run({"min_class_recall": 0.5}, export=Export(Work(), "99999999999"))
    assert outcome.warnings == [
        "The model never answers 'magenta' (12 test images): no test image of this class is recognised."
    ]
    assert outcome.reasons == [
        "min_class_recall is 0.0000 (class 'magenta', 12 test images), at least 0.5 was asked for"
    ]


def test_a_test_shard_that_lost_a_record_is_noticed(judge, outcomes):
    copy, run = judge
    file = max(outcomes[1].folder(copy).glob("test-*.tfrecord"), key=lambda file: file.stat().st_size)
    records = [*tf.data.TFRecordDataset(str(file)).as_numpy_iterator()]
    with tf.io.TFRecordWriter(str(file)) as writer:
        for record in records[1:]:
            writer.write(record)
    assert "has 35 records, expected 36" in refusal(run, {"accuracy": 0.1})


def test_predictions_that_are_not_those_of_the_test_split_are_noticed(judge, monkeypatch):
    copy, run = judge
    join = model_analysis.join_predictions

    def lose_one(table):
        join(table)
        table.write_text("".join(table.read_text().splitlines(keepends=True)[:-1]))

    monkeypatch.setattr(model_analysis, "join_predictions", lose_one)
    assert "has 35 records, expected 36" in refusal(run, {"accuracy": 0.1})
    assert (copy.evaluation / "BLESSED").exists()  # the last evaluation that ended well


def test_a_worse_model_is_refused_against_the_last_blessed_one_and_a_better_one_is_not(judge):
    copy, run = judge
    good = list_versions(copy.exports)[0]
    spoil(good, copy.exports / "99999999999", turn_round)
    worse = run({}, drop=0.1, export=Export(Work(), "99999999999"))
    assert not worse.blessed
    assert f"against export {good.name}" in worse.reasons[0]
    assert run({"accuracy": 0.5}, drop=0.1).blessed


def test_images_that_were_right_and_now_are_wrong_are_counted_and_refused(judge):
    copy, run = judge
    good = list_versions(copy.exports)[0]
    spoil(good, copy.exports / "99999999999", silence_magenta)
    rows = read_csv(copy.predictions)
    new = Export(Work(), "99999999999")
    refused = run({}, export=new, wrong=0.1)
    lost = sum(row["actual"] == row["label"] == "magenta" for row in rows)
    assert refused.reasons == [
        f"{lost / 36:.4f} of the 36 test images shared with export {good.name} were right and now are wrong ({lost} "
        f"images), max_newly_wrong allows 0.1"
    ]
    verdict = json.loads((copy.evaluation / "NOT_BLESSED").read_text())
    assert verdict["newly_wrong"] == {"export": good.name, "images": 36, "lost": lost}
    assert (refused.verdict, (copy.exports / new.version / "BLESSED").exists()) == ("NOT BLESSED", False)
    # At the limit itself the model is blessed, and was compared.
    assert run({}, export=new, wrong=lost / 36).verdict == "BLESSED"


def test_a_first_model_without_newly_wrong_images_to_count_is_blessed_and_says_so(judge):
    copy, run = judge
    reason = "max_newly_wrong was not checked, as there is no earlier blessed model in this run directory"
    outcome = run({}, wrong=0.0)
    assert (outcome.verdict, outcome.reasons) == ("BLESSED (nothing was compared)", [reason])
    assert f"{reason}." in run({"accuracy": 0.1}, wrong=0.0).warnings
    # Compared by one of two limits: the other is only a note.
    (good,) = list_versions(copy.exports)
    shutil.copytree(good, copy.exports / "99999999999")
    (good / "test_predictions.csv").unlink()
    outcome = run({}, drop=0.1, wrong=0.0, export=Export(Work(), "99999999999"))
    assert (outcome.verdict, outcome.reasons) == ("BLESSED", [])
    assert any("max_newly_wrong was not checked" in warning for warning in outcome.warnings)
