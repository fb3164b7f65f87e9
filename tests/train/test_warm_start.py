import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
from scipy.special import softmax
from toys import refusal

from components.run_dir import RunDir
from components.train.logistic_regression import Linear
from components.train.model import STANDARDIZE, WHITEN
from components.train.normalization import WHITENING
from components.train.settings import SIGMOID, SOFTMAX, Architecture, HiddenLayer
from components.train.warm_start import BIASES, WEIGHTS, read_former_head, set_output

CLASSES = ["cyan", "magenta", "yellow"]
LINEAR, WHITENED = Architecture(normalize="l2"), Architecture(normalize=WHITEN)


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(3, 2, shape).astype(np.float32)


def test_a_single_output_gives_the_probabilities_of_the_two_it_stands_for():
    linear = Linear(draw(4, 2), draw(2, seed=1))
    values = draw(30, 4, seed=2) / 10
    both, single = set_output(linear, SOFTMAX), set_output(linear, SIGMOID)
    assert (single[WEIGHTS].shape, single[BIASES].shape) == ((4, 1), (1,))
    expected = softmax(values @ both[WEIGHTS] + both[BIASES], axis=1)
    second = 1 / (1 + np.exp(-(values @ single[WEIGHTS] + single[BIASES])))
    np.testing.assert_allclose(np.hstack([1 - second, second]), expected, atol=1e-5)


@pytest.fixture
def former(toy_run):
    """The toy run's backbone and the weights and biases that it trained."""
    reader = tf.train.load_checkpoint(str(toy_run.model))
    backbone_id = json.loads(toy_run.record.read_text())["backbone"]["id"]
    return backbone_id, reader.get_tensor(WEIGHTS), reader.get_tensor(BIASES)


def test_a_head_for_the_same_classes_is_taken_over_as_it_is(toy_run, former):
    backbone_id, weights, biases = former
    start = read_former_head(toy_run.root, CLASSES, backbone_id, WHITENED)
    assert set(start) == {WHITENING, WEIGHTS, BIASES}
    np.testing.assert_array_equal(start[WEIGHTS], weights)
    np.testing.assert_array_equal(start[BIASES], biases)
    assert "another architecture" in refusal(read_former_head, toy_run.root, CLASSES, backbone_id, LINEAR)
    assert np.abs(weights).max() > 0.1


def test_known_classes_keep_their_weights_wherever_they_stand_and_new_ones_have_none(toy_run, former):
    backbone_id, weights, biases = former
    start = read_former_head(toy_run.root, ["cyan", "green", "yellow"], backbone_id, WHITENED)
    np.testing.assert_array_equal(start[WEIGHTS][:, [0, 2]], weights[:, [0, 2]])
    np.testing.assert_array_equal(start[BIASES], [biases[0], 0, biases[2]])
    assert not start[WEIGHTS][:, 1].any()


def write_former(run, labels, architecture, dim=5, config=True):
    """Write what is read of a finished run whose head has random weights; return its variables."""
    from components.train.model import add_final_training_ops

    run.labels.parent.mkdir(parents=True)
    run.labels.write_text("".join(f"{label}\n" for label in labels))
    layers = [{"activation": layer.activation, "units": layer.units} for layer in architecture.hidden]
    head = {"head": {"hidden": layers, "normalize": architecture.normalize}}
    record = {"config": head if config else {}, "backbone": {"name": "toy", "id": "toy-1"}}
    run.record.write_text(json.dumps(record))
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        add_final_training_ops(tf.zeros([1, dim]), None, len(labels), architecture, False)
        variables = tf.compat.v1.global_variables()
        session.run([variable.assign(draw(*variable.shape)) for variable in variables])
        tf.compat.v1.train.Saver().save(session, str(run.model / "model.ckpt"), write_meta_graph=False)
        return {variable.op.name: value for variable, value in zip(variables, session.run(variables), strict=True)}


HIDDEN = (HiddenLayer(4, "relu"), HiddenLayer(3, "tanh"))


def test_hidden_layers_and_the_scaling_are_taken_over_too(tmp_path):
    architecture = Architecture(HIDDEN, normalize=STANDARDIZE)
    written = write_former(RunDir(tmp_path), ["a", "b"], architecture)
    start = read_former_head(tmp_path, ["a", "b", "c"], "toy-1", architecture)
    assert set(start) == set(written) and len(start) == 8
    for name, value in written.items():
        np.testing.assert_array_equal(start[name] if name not in (WEIGHTS, BIASES) else start[name][..., :2], value)


def test_a_head_with_a_single_output_is_taken_over_for_its_own_two_classes_only(tmp_path):
    architecture = Architecture(output=SIGMOID, normalize="l2")
    written = write_former(RunDir(tmp_path), ["a", "b"], architecture)
    start = read_former_head(tmp_path, ["a", "b"], "toy-1", architecture)
    np.testing.assert_array_equal(start[WEIGHTS], written[WEIGHTS])
    assert "softmax" in refusal(read_former_head, tmp_path, ["b", "a"], "toy-1", architecture)
    assert "single output" in refusal(read_former_head, tmp_path, ["a", "b", "c"], "toy-1", LINEAR)


def test_a_run_from_before_heads_could_be_chosen_had_a_linear_one(tmp_path):
    write_former(RunDir(tmp_path), ["a", "b"], LINEAR, config=False)
    assert set(read_former_head(tmp_path, ["a", "b"], "toy-1", LINEAR)) == {WEIGHTS, BIASES}


def test_a_folder_without_a_trained_run_is_named(tmp_path, toy_run):
    words = refusal(read_former_head, tmp_path / "none", CLASSES, "id", LINEAR)
    assert f"'{tmp_path / 'none'}', which has no trained run" in words
    untrained = tmp_path / "run"
    shutil.copytree(toy_run.root, untrained, ignore=shutil.ignore_patterns("model"))
    assert "has no trained run" in refusal(read_former_head, untrained, CLASSES, "id", LINEAR)
    (tmp_path / "other").mkdir()
    write_former(RunDir(tmp_path / "other"), CLASSES, LINEAR)
    (tmp_path / "other" / "run.json").write_text("{}")
    assert "has no trained run" in refusal(read_former_head, tmp_path / "other", CLASSES, "id", LINEAR)


def test_another_backbone_is_named(toy_run, former):
    words = refusal(read_former_head, toy_run.root, CLASSES, "other-7", LINEAR)
    assert former[0] in words and "other-7" in words


@pytest.mark.parametrize(
    "other",
    [
        LINEAR,
        Architecture(HIDDEN[:1], normalize="l2"),
        Architecture((HIDDEN[0], HiddenLayer(5, "tanh")), normalize="l2"),
        Architecture((HIDDEN[0], HiddenLayer(3, "relu")), normalize="l2"),
        Architecture(HIDDEN, normalize=STANDARDIZE),
        Architecture(HIDDEN, normalize="none"),
        Architecture(HIDDEN, normalize=WHITEN),
    ],
)
def test_a_head_that_is_built_otherwise_is_refused(tmp_path, other):
    write_former(RunDir(tmp_path), ["a", "b"], Architecture(HIDDEN, normalize="l2"))
    assert set(read_former_head(tmp_path, ["a", "b"], "toy-1", Architecture(HIDDEN, normalize="l2")))
    assert "another architecture" in refusal(read_former_head, tmp_path, ["a", "b"], "toy-1", other)


def test_a_head_that_knows_none_of_the_classes_is_refused(toy_run, former):
    assert "none of these classes" in refusal(read_former_head, toy_run.root, ["x", "y"], former[0], WHITENED)
