import csv
import json
import shutil
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.utils.class_weight import compute_class_weight
from toys import ingest, paint_images, read_outcome, refusal, write_config

from components.backbones.settings import Augment
from components.backbones.spec import parse_backbone
from components.export.versions import list_versions, read_facts
from components.extract.extract import extract_bottlenecks
from components.extract.settings import EngineChoice
from components.features import INDEX
from components.outcomes import Bottlenecks, Examples, Head
from components.run_dir import REFIT, RunDir
from components.shards.bottlenecks import Vectors, load_vectors
from components.train.inputs import evaluate_from_memory, evaluate_from_shards
from components.train.logistic_regression import L2_CANDIDATES, choose_penalty, fit_linear, make_objective, split_folds
from components.train.model import STANDARDIZE, WHITEN
from components.train.normalization import MEAN, SCALE, WHITENING, measure_scaling, scale_vectors
from components.train.settings import (
    FALLBACK_L2,
    MOST_WHITENED,
    OPTIMUM_RATE,
    OPTIMUM_STEPS,
    SIGMOID,
    SOFTMAX,
    Architecture,
    HiddenLayer,
    Recipe,
    Schedule,
    resolve_architecture,
    settle_recipe,
)
from components.train.train import load_classifier, read_source, train_head
from components.train.training_plan import choose_epochs, plan_head, plan_training, weigh_classes
from components.train.warm_start import BIASES, WEIGHTS, read_head
from pipeline.cli import main

CLASSES = ["cyan", "magenta", "yellow"]
HIDDEN = (HiddenLayer(16, "relu", 0.2, 1e-4),)
LINEAR = Architecture(output=SOFTMAX, normalize="l2")
AUTOMATIC, _ = settle_recipe(Recipe(), Architecture())
NUMBERS, _ = settle_recipe(Recipe(l2=0.001), LINEAR)
PLAIN_VIEW = Augment(flip=False, crops=0, crop_side=0.8, average=False)


@pytest.mark.parametrize(
    "images, batch_size, epochs", [(1, 256, 100), (301, 256, 100), (5482, 256, 14), (18364, 256, 5), (10**6, 256, 4)]
)
def test_epochs_give_about_300_steps(images, batch_size, epochs):
    assert choose_epochs(images, Recipe(batch_size=batch_size)) == epochs


def test_epochs_and_steps_that_are_asked_for_are_made():
    assert choose_epochs(1000, Recipe(epochs=7)) == 7
    assert choose_epochs(1000, Recipe(steps=9, batch_size=250)) == 3
    assert choose_epochs(1000, Recipe(steps=8, batch_size=250)) == 2
    assert choose_epochs(1000, Recipe(steps=1, batch_size=250)) == 1


def test_balanced_weights_are_those_of_scikit_learn():
    labels = np.repeat([0, 1, 2], [5, 20, 75])
    weights = weigh_classes("balanced", np.bincount(labels), ["a", "b", "c"])
    np.testing.assert_allclose(weights, compute_class_weight("balanced", classes=np.arange(3), y=labels))
    assert np.mean(np.array(weights)[labels]) == pytest.approx(1)
    with_an_empty_class = weigh_classes("balanced", np.array([10, 0, 30]), ["a", "b", "c"])
    assert np.average(with_an_empty_class, weights=[10, 0, 30]) == pytest.approx(1)


def test_weights_by_name_keep_their_ratio_and_unknown_names_are_refused():
    weights = weigh_classes({"b": 3.0}, np.array([10, 10]), ["a", "b"])
    assert weights == pytest.approx([0.5, 1.5])
    assert weigh_classes({"a": 0.0}, np.array([10, 30]), ["a", "b"]) == pytest.approx([0, 4 / 3])
    assert weigh_classes({}, np.array([10, 30]), ["a", "b"]) == pytest.approx([1, 1])
    assert "'x', which is not a class" in refusal(weigh_classes, {"x": 1.0}, np.array([1, 1]), ["a", "b"])
    assert weigh_classes(None, np.array([1]), ["a"]) is None


def test_two_classes_get_a_single_output_unless_asked_otherwise():
    assert resolve_architecture(Architecture(output="auto"), 2, 9).output == SIGMOID
    assert resolve_architecture(Architecture(output="auto"), 3, 9).output == SOFTMAX
    assert resolve_architecture(Architecture(output=SOFTMAX), 2, 9).output == SOFTMAX
    assert "the data has 3" in refusal(resolve_architecture, Architecture(output=SIGMOID), 3, 9)


def test_bottlenecks_are_whitened_unless_they_are_too_wide_or_asked_otherwise():
    assert resolve_architecture(Architecture(), 3, MOST_WHITENED).normalize == WHITEN
    assert resolve_architecture(Architecture(), 3, MOST_WHITENED + 1).normalize == "l2"
    assert resolve_architecture(Architecture(normalize="none"), 3, 9).normalize == "none"


def test_a_linear_head_in_memory_starts_at_the_optimum_of_a_penalty_chosen_on_the_data():
    settled, notes = settle_recipe(Recipe(), Architecture())
    assert (settled.l2, settled.learning_rate, settled.steps, notes) == ("auto", OPTIMUM_RATE, OPTIMUM_STEPS, [])
    assert settle_recipe(settled, Architecture()) == (settled, [])
    own = Recipe(epochs=3, learning_rate=0.1)
    settled, _ = settle_recipe(own, Architecture())
    assert (settled.l2, settled.learning_rate, settled.steps, settled.epochs) == ("auto", 0.1, None, 3)
    former, _ = settle_recipe(Recipe(warm_start=Path("runs/old")), Architecture())
    several, _ = settle_recipe(Recipe(), Architecture(), views=2)  # the optimum has seen one of them
    assert (former.l2, former.learning_rate, former.steps) == ("auto", 0.003, None)
    assert (several.l2, several.learning_rate, several.steps) == ("auto", 0.003, None)


@pytest.mark.parametrize(
    "recipe, architecture, fits, words",
    [
        (Recipe(), Architecture(HIDDEN), True, "hidden layers"),
        (Recipe(optimizer="adamw"), Architecture(), True, "adamw"),
        (Recipe(), Architecture(), False, "do not fit in train.max_memory"),
    ],
)
def test_where_the_penalty_cannot_be_chosen_it_is_a_number_and_a_note_says_so(recipe, architecture, fits, words):
    settled, (note,) = settle_recipe(recipe, architecture, fits=fits)
    assert (settled.l2, settled.learning_rate, settled.steps) == (FALLBACK_L2, 0.003, None)
    assert words in note and "train.l2 is 0.001" in note
    assert settle_recipe(replace(recipe, l2=0.2), architecture, fits=fits)[0].l2 == 0.2
    assert not settle_recipe(replace(recipe, l2=0.2), architecture, fits=fits)[1]


@pytest.mark.parametrize("output", [SIGMOID, SOFTMAX])
def test_l2_auto_starts_at_the_optimum_of_the_penalty_it_chose(tmp_path, output):
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 200)
    values = (np.eye(2, 6)[labels] + random.normal(0, 0.7, (200, 6))).astype(np.float32)
    architecture = Architecture(output=output, normalize="none")
    train = Vectors(values[:, None], labels)
    plan = plan_training(train, None, ["a", "b"], tmp_path / "l", architecture, AUTOMATIC, {})
    l2 = plan.head.optimization.l2
    # scikit-learn's two-class model has a single output; the soft-max shares its weights between two.
    strength = 1 / (len(labels) * (l2 if output == SIGMOID else l2 / 2))
    expected = LogisticRegression(C=strength, tol=1e-8, max_iter=1000).fit(values, labels)
    weights, biases = plan.start[WEIGHTS], plan.start[BIASES]
    if output == SOFTMAX:
        weights, biases = weights[:, 1:] - weights[:, :1], biases[1:] - biases[:1]
    np.testing.assert_allclose(weights[:, 0], expected.coef_[0], atol=0.02)
    np.testing.assert_allclose(biases, expected.intercept_, atol=0.02)


def draw_vectors(count, seed, classes=3):
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, count)
    values = (np.eye(classes, 12)[labels] * 2 + random.normal(1, 1.3, (count, 12))).astype(np.float32)
    return Vectors(values[:, None], labels)


@pytest.mark.parametrize("normalize", ["l2", STANDARDIZE, WHITEN])
@pytest.mark.parametrize("held_out", [True, False])
def test_l2_auto_is_chosen_for_the_very_loss_that_is_trained(tmp_path, normalize, held_out, monkeypatch):
    compared = []
    monkeypatch.setattr(
        "components.train.training_plan.choose_penalty", lambda pairs: compared.append(pairs) or choose_penalty(pairs)
    )
    train, val = draw_vectors(90, 0), draw_vectors(60, 1)
    architecture = Architecture(normalize=normalize)
    recipe = replace(AUTOMATIC, label_smoothing=0.1, class_weight={"cyan": 2.0})
    plan = plan_training(train, val if held_out else None, CLASSES, tmp_path, architecture, recipe, {})
    weights = plan.head.optimization.class_weights
    assert weights[0] == pytest.approx(2 * weights[1]) and plan.head.optimization.label_smoothing == 0.1

    def objective(vectors, scaling=plan.start):
        values = scale_vectors(vectors.values[:, 0], normalize, scaling)
        return make_objective(values, vectors.labels, 3, 0.1, weights)

    pairs = [(objective(train), objective(val))]
    if not held_out:  # each fold's images are judged by what has not seen them, its scaling neither
        folds = [(train.select(fitted), train.select(judged)) for fitted, judged in split_folds(train.labels)]
        scalings = [measure_scaling(lambda: [fitted], normalize, 3) for fitted, _ in folds]  # noqa: B023
        pairs = [
            tuple(objective(part, scaling) for part in fold) for fold, scaling in zip(folds, scalings, strict=True)
        ]
    (judged,) = compared
    for found, expected in zip(judged, pairs, strict=True):
        for left, right in zip(found, expected, strict=True):
            np.testing.assert_allclose(left.values, right.values, rtol=1e-5)
    chosen = choose_penalty(pairs)
    assert plan.head.optimization.l2 == chosen in L2_CANDIDATES
    best = fit_linear(objective(train), chosen)
    np.testing.assert_allclose(plan.start[WEIGHTS], best.weights)
    np.testing.assert_allclose(plan.start[BIASES], best.biases)
    assert (MEAN in plan.start) == (normalize == STANDARDIZE)


def test_l2_auto_with_a_single_output_begins_as_with_two(tmp_path):
    train, val = draw_vectors(90, 0, 2), draw_vectors(60, 1, 2)
    plans = {
        output: plan_training(train, val, CLASSES[:2], tmp_path, replace(LINEAR, output=output), AUTOMATIC, {})
        for output in (SIGMOID, SOFTMAX)
    }
    two, one = plans[SOFTMAX].start, plans[SIGMOID].start
    np.testing.assert_allclose(one[WEIGHTS], two[WEIGHTS][:, 1:] - two[WEIGHTS][:, :1])
    np.testing.assert_allclose(one[BIASES], two[BIASES][1:] - two[BIASES][:1])
    assert plans[SIGMOID].head.optimization.l2 == plans[SOFTMAX].head.optimization.l2 / 2


def test_l2_auto_leaves_the_weights_of_a_warm_start(tmp_path):
    former = {WEIGHTS: np.ones((12, 3), np.float32), BIASES: np.ones(3, np.float32)}
    recipe = replace(AUTOMATIC, warm_start=tmp_path)
    plan = plan_training(draw_vectors(90, 0), None, CLASSES, tmp_path, LINEAR, recipe, former)
    assert plan.head.optimization.l2 in L2_CANDIDATES
    assert set(plan.start) == {WEIGHTS, BIASES} and all((value == 1).all() for value in plan.start.values())


def test_a_warm_start_keeps_the_scaling_that_its_weights_are_for(tmp_path):
    former = {MEAN: np.ones(12, np.float32), SCALE: np.full(12, 2, np.float32)}
    architecture = Architecture(normalize=STANDARDIZE)
    plan = plan_training(draw_vectors(90, 0), None, CLASSES, tmp_path, architecture, NUMBERS, former)
    assert (plan.start[MEAN] == 1).all() and (plan.start[SCALE] == 2).all()


@pytest.fixture
def toy(toy_run, tmp_path):
    """The toy run's images and bottlenecks, and a copy of its folder to train in."""
    shutil.copytree(toy_run.root, tmp_path / "run")
    run = RunDir(tmp_path / "run")
    return read_outcome(run, "ingest", Examples), read_outcome(run, "extract", Bottlenecks), run


def test_training_sees_all_views_unless_their_mean_is_served_and_validation_what_is_served(toy):
    examples, bottlenecks, run = toy
    several = replace(bottlenecks, view_count=5)
    assert read_source(examples, several, run, "train").views == 5
    assert read_source(examples, several, run, "val").views == 1
    assert read_source(examples, replace(several, average=True), run, "train").views == 1


@pytest.mark.parametrize("class_weight", [None, "balanced", {"magenta": 3.0}, {}])
@pytest.mark.parametrize("normalize", ["l2", STANDARDIZE])
def test_training_from_shards_is_planned_as_from_memory(toy, normalize, class_weight):
    examples, bottlenecks, run = toy
    source = read_source(examples, bottlenecks, run, "train")
    architecture = Architecture(HIDDEN, normalize=normalize)
    recipe = replace(
        NUMBERS, steps=40, batch_size=16, class_weight=class_weight, optimizer="adamw", schedule=Schedule("constant")
    )
    args = (CLASSES, run.labels, architecture, recipe, {})
    streamed = plan_head(source, *args)
    held = plan_training(load_vectors(source), None, *args)
    assert streamed.head == held.head
    assert streamed.start.keys() == held.start.keys() and len(held.start) == 2 * (normalize == STANDARDIZE)
    for name, value in held.start.items():
        np.testing.assert_allclose(streamed.start[name], value, rtol=1e-5)


def test_a_warm_start_keeps_its_scaling_when_training_from_shards(toy):
    examples, bottlenecks, run = toy
    source = read_source(examples, bottlenecks, run, "train")
    former = {MEAN: np.ones(48, np.float32), SCALE: np.full(48, 2, np.float32)}
    plan = plan_head(source, CLASSES, run.labels, Architecture(normalize=STANDARDIZE), NUMBERS, former)
    assert (plan.start[MEAN] == 1).all() and (plan.start[SCALE] == 2).all()


def test_l2_auto_is_refused_where_memory_is_short_and_says_how_much_it_needs(toy, progress):
    examples, bottlenecks, run = toy
    sources = [read_source(examples, bottlenecks, run, split) for split in ("train", "val")]
    needed = sum(source.bytes + 4 * 3 * source.count for source in sources)
    recipe = Recipe(l2="auto", epochs=1, max_memory=needed - 1)
    words = refusal(train_head, examples, bottlenecks, run, Architecture(), recipe, progress)
    assert f"({needed:,} bytes" in words and f"found {needed - 1:,}" in words and "set train.max_memory" in words
    outcome = train_head(examples, bottlenecks, run, Architecture(), replace(recipe, max_memory=needed), progress)
    assert outcome.l2 in L2_CANDIDATES


def read_history(run):
    with run.history.open(newline="") as file:
        return list(csv.DictReader(file))


RECIPES = {
    "as the toy run": (Architecture(), Recipe(epochs=8, batch_size=16, learning_rate=0.05)),
    "hidden": (
        Architecture(HIDDEN, normalize=STANDARDIZE),
        Recipe(steps=60, batch_size=16, optimizer="adamw", class_weight="balanced", label_smoothing=0.05),
    ),
    "momentum": (
        Architecture(normalize="none"),
        Recipe(epochs=30, batch_size=16, optimizer="momentum", learning_rate=0.1, schedule=Schedule("exponential", 5)),
    ),
}


@pytest.mark.parametrize("normalize", [STANDARDIZE, WHITEN])
def test_scaling_is_measured_without_copies_of_all_bottlenecks(tmp_path, normalize):
    vectors = Vectors(np.random.default_rng(0).normal(size=(100_000, 1, 16)).astype(np.float32), np.arange(100_000) % 3)
    tracemalloc.start()
    plan_training(vectors, None, CLASSES, tmp_path / "labels.txt", Architecture(normalize=normalize), NUMBERS, {})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < vectors.values.nbytes  # 5 times that where all were copied to float64


@pytest.mark.parametrize("max_memory", [None, 1], ids=["memory", "shards"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_head_learns_from_memory_and_from_shards(toy, toy_run, progress, recipe, max_memory):
    examples, bottlenecks, run = toy
    architecture, how = RECIPES[recipe]
    how = replace(how, max_memory=max_memory)
    outcome = train_head(examples, bottlenecks, run, architecture, how, progress)
    history = read_history(run)
    at_optimum = recipe != "hidden" and not max_memory
    assert len(history) == choose_epochs(examples.splits["train"], how) + at_optimum
    best = next(row for row in history if row["epoch"] == str(outcome.best_epoch))
    assert float(best["val_accuracy"]) == pytest.approx(outcome.val_accuracy, abs=1e-6)
    assert best["val_accuracy"] == max(row["val_accuracy"] for row in history)
    assert outcome.val_accuracy >= 0.75
    assert outcome.l2 in L2_CANDIDATES if at_optimum else outcome.l2 == FALLBACK_L2
    assert bool(outcome.warnings) != at_optimum
    if at_optimum and recipe == "as the toy run":
        assert run.history.read_bytes() == toy_run.history.read_bytes()
    classifier = load_classifier(examples, bottlenecks, outcome.folder(run), run, architecture)
    metrics = classifier.evaluate(evaluate_from_shards(read_source(examples, bottlenecks, run, "val")).input_fn)
    assert metrics["accuracy"] == pytest.approx(outcome.val_accuracy)
    assert metrics["cross_entropy"] == pytest.approx(outcome.val_loss, abs=1e-5)


def test_l2_auto_needs_next_to_no_training(toy, progress):
    examples, bottlenecks, run = toy
    outcome = train_head(examples, bottlenecks, run, Architecture(), Recipe(epochs=1), progress)
    assert outcome.l2 in L2_CANDIDATES
    assert outcome.val_accuracy >= 0.8
    plain = train_head(examples, bottlenecks, run, Architecture(), Recipe(l2=outcome.l2, epochs=1), progress)
    assert outcome.val_loss < plain.val_loss - 0.1
    words = refusal(train_head, examples, bottlenecks, run, Architecture(), Recipe(l2="auto", max_memory=1), progress)
    assert "train.l2 is auto" in words
    assert len(read_history(run)) == 1  # what was there stays: a start from zeros is no epoch


@pytest.mark.parametrize("begins", ["auto", "warm start"])
def test_training_that_worsens_a_trained_head_keeps_the_head_it_began_with(toy, toy_run, progress, begins):
    examples, bottlenecks, run = toy
    train, val = (load_vectors(read_source(examples, bottlenecks, run, split)) for split in ("train", "val"))
    recipe = Recipe(epochs=3, learning_rate=30.0, batch_size=16, optimizer="sgd", schedule=Schedule("constant"))
    if begins == "auto":
        recipe = replace(recipe, l2="auto")  # at this rate each step leaps over the optimum
        start = plan_training(train, val, CLASSES, run.labels, Architecture(normalize=WHITEN), recipe, {}).start
    else:
        recipe = replace(recipe, warm_start=toy_run.root, class_weight={"magenta": 0, "yellow": 0})  # forgets both
        start = read_head(toy_run.model)
    logits = scale_vectors(val.values[:, 0], WHITEN, start) @ start[WEIGHTS] + start[BIASES]
    outcome = train_head(examples, bottlenecks, run, Architecture(), recipe, progress)
    history = read_history(run)
    assert [row["epoch"] for row in history] == ["0", "1", "2", "3"]
    assert all(float(row["val_accuracy"]) < outcome.val_accuracy for row in history[1:])
    assert outcome.best_epoch == 0
    assert outcome.val_accuracy == pytest.approx((logits.argmax(1) == val.labels).mean())
    losses = tf.keras.losses.sparse_categorical_crossentropy(val.labels, logits, from_logits=True)
    assert outcome.val_loss == pytest.approx(float(np.mean(losses)), abs=1e-5)
    np.testing.assert_allclose(read_head(run.model)[WEIGHTS], start[WEIGHTS], atol=1e-6)


def step_of(folder):
    return int(tf.train.load_checkpoint(str(folder)).get_tensor("global_step"))


@pytest.mark.parametrize("max_memory", [None, 1], ids=["memory", "shards"])
@pytest.mark.parametrize("architecture", [Architecture(), Architecture(HIDDEN)], ids=["linear", "hidden"])
def test_refit_passes_over_train_and_val_as_often_as_the_best_epoch_over_train(toy, progress, architecture, max_memory):
    examples, bottlenecks, run = toy
    recipe = Recipe(steps=33, batch_size=16, learning_rate=0.02, max_memory=max_memory, l2=0.001)
    outcome = train_head(examples, bottlenecks, run, architecture, recipe, progress)
    train, both = (
        -(-count // 16)
        for count in (examples.splits["train"], sum(examples.splits[split] for split in ("train", "val")))
    )
    assert outcome.refit and outcome.exported(run) == run.model / REFIT
    assert step_of(run.model) == min(outcome.best_epoch * train, 33)
    assert step_of(run.model / REFIT) == -(-step_of(run.model) * both // train)
    first, again = (
        tf.train.load_checkpoint(str(folder)).get_tensor(WEIGHTS) for folder in (run.model, run.model / REFIT)
    )
    assert np.abs(first - again).max() > 1e-3
    actual, predicted = predict_all(examples, bottlenecks, run, outcome, architecture)
    assert (actual == predicted).mean() > 0.7


def test_the_refitted_head_starts_at_the_optimum_over_both_splits_of_the_penalty_chosen_before(toy, progress):
    examples, bottlenecks, run = toy
    outcome = train_head(examples, bottlenecks, run, Architecture(), Recipe(steps=1, learning_rate=1e-9), progress)
    train, val = (load_vectors(read_source(examples, bottlenecks, run, split)) for split in ("train", "val"))
    both = Vectors(*map(np.concatenate, zip(train, val, strict=True)))
    found = read_head(run.model / REFIT)
    scaling = measure_scaling(both.parts, WHITEN, 3)
    np.testing.assert_allclose(found[WHITENING], scaling[WHITENING], rtol=1e-4, atol=1e-5)
    values = scale_vectors(both.values[:, 0], WHITEN, scaling)
    optimum = fit_linear(make_objective(values, both.labels, 3, 0.0, None), outcome.l2)
    np.testing.assert_allclose(found[WEIGHTS], optimum.weights, atol=1e-3)
    assert np.abs(read_head(run.model)[WEIGHTS] - optimum.weights).max() > 0.01


def test_a_refit_from_a_warm_start_begins_with_the_former_head(toy, toy_run, progress):
    examples, bottlenecks, run = toy
    recipe = Recipe(epochs=1, learning_rate=1e-9, warm_start=toy_run.root)
    train_head(examples, bottlenecks, run, Architecture(), recipe, progress)
    for name, value in read_head(toy_run.model).items():
        np.testing.assert_allclose(read_head(run.model / REFIT)[name], value, atol=1e-6)


def test_without_refit_the_head_that_did_not_see_the_validation_split_is_exported(toy, progress):
    examples, bottlenecks, run = toy
    outcome = train_head(examples, bottlenecks, run, Architecture(), Recipe(epochs=1, refit=False), progress)
    assert outcome.exported(run) == run.model and not (run.model / REFIT).exists()


def test_patience_shortens_the_history(toy, progress):
    examples, bottlenecks, run = toy
    recipe = Recipe(epochs=40, batch_size=16, learning_rate=0.5, patience=2, l2=0.001)
    outcome = train_head(examples, bottlenecks, run, Architecture(), recipe, progress)
    assert len(read_history(run)) == outcome.best_epoch + 2 < 40


@pytest.mark.parametrize("max_memory", [None, 1], ids=["memory", "shards"])
def test_training_takes_the_steps_asked_for_and_its_rate_falls_over_these(toy, progress, max_memory):
    examples, bottlenecks, run = toy
    recipe = Recipe(steps=17, batch_size=16, learning_rate=0.01, max_memory=max_memory, l2=0.001)
    assert -(-examples.splits["train"] // 16) == 7
    train_head(examples, bottlenecks, run, Architecture(), recipe, progress)
    assert [row["epoch"] for row in read_history(run)] == ["1", "2", "3"]
    (file,) = run.model.glob("events*")
    events = tf.compat.v1.train.summary_iterator(str(file))
    steps = [event.step for event in events for value in event.summary.value if value.tag == "accuracy"]
    assert steps == [7, 14, 17]
    source = read_source(examples, bottlenecks, run, "train")
    plan = plan_training(load_vectors(source), None, CLASSES, run.labels, LINEAR, recipe, {})
    assert plan.head.optimization.steps == 17


def test_a_head_that_goes_on_from_itself_begins_where_it_ended(toy, toy_run, progress):
    examples, bottlenecks, run = toy
    recipe = Recipe(epochs=1, learning_rate=1e-9, warm_start=toy_run.root)
    outcome = train_head(examples, bottlenecks, run, Architecture(), recipe, progress)
    former = json.loads((toy_run.stages / "train.json").read_text())["outcome"]
    assert outcome.val_accuracy == pytest.approx(former["val_accuracy"])
    assert outcome.val_loss == pytest.approx(former["val_loss"], abs=1e-5)


def predict_all(examples, bottlenecks, run, outcome, architecture):
    """Return actual and predicted classes of the test split."""
    test = load_vectors(read_source(examples, bottlenecks, run, "test"))
    classifier = load_classifier(examples, bottlenecks, outcome.exported(run), run, architecture)
    batches = evaluate_from_memory(test.values[:, 0], test.labels)
    return test.labels, [prediction[INDEX] for prediction in classifier.predict(batches.input_fn)]


def test_balanced_weights_help_the_rare_classes(tmp_path, toy_backbone, options, progress):
    images, run = paint_images(tmp_path / "images", per_class=300), RunDir(tmp_path / "run")
    for rare in CLASSES[1:]:
        for number in range(300):
            for file in (images / rare).rglob(f"{number:03d}.*"):
                if number % 15:
                    file.unlink()
    shares = {"train": 0.4, "val": 0.2, "test": 0.4}
    examples = ingest(images, run, options, shares=shares)
    specs = parse_backbone(toy_backbone)
    bottlenecks = extract_bottlenecks(examples, specs, EngineChoice(), PLAIN_VIEW, run, options, progress)
    accuracies = []
    for class_weight in (None, "balanced"):
        recipe = Recipe(epochs=4, learning_rate=0.01, class_weight=class_weight, l2=0.001)
        outcome = train_head(examples, bottlenecks, run, LINEAR, recipe, progress)
        actual, predicted = predict_all(examples, bottlenecks, run, outcome, LINEAR)
        accuracies.append(balanced_accuracy_score(actual, predicted))
    assert accuracies[1] > accuracies[0] + 0.1
    assert accuracies[1] > 0.6


def run_pipeline(tmp_path, config, *arguments, **changes):
    """Run a config with some sections changed, in tmp_path/run; return the exit code and run.json."""
    path = write_config(tmp_path / "c.yaml", **{**config, **changes, "output_dir": str(tmp_path / "run")})
    status = main(["run", str(path), *arguments])
    return status, json.loads((tmp_path / "run" / "run.json").read_text())


def test_two_classes_do_equally_well_with_one_output_and_with_two(toy_config, tmp_path):
    images = paint_images(tmp_path / "images", per_class=60)
    shutil.rmtree(images / "yellow")
    train = {"epochs": 20, "batch_size": 16, "learning_rate": 0.01}
    config = {**toy_config, "data": {"path": str(images)}, "train": train}
    found = {}
    for output in ("auto", "softmax"):
        status, record = run_pipeline(tmp_path, config, head={"output": output}, abstain={"precision": 0.7})
        assert status == 0 and record["counts"]["classes"] == 2
        shape = tf.train.load_checkpoint(str(tmp_path / "run" / "model")).get_tensor(WEIGHTS).shape
        assert shape == (48, 1 if output == "auto" else 2)
        (*_, export) = list_versions(tmp_path / "run" / "export")
        assert read_facts(export)["abstention"]["wanted"] == 0.7  # TFMA measures a model with that output as any other
        found[output] = record["metrics"]
    one_image = 1 / record["counts"]["test"]
    assert found["auto"]["accuracy"] == pytest.approx(found["softmax"]["accuracy"], abs=1.01 * one_image)
    for metrics in found.values():
        assert metrics["accuracy"] >= 0.8 and metrics["top5"] == 1
        assert 0 < metrics["loss"] < 0.5
    assert found["auto"]["loss"] == pytest.approx(found["softmax"]["loss"], abs=0.1)


def test_a_run_with_an_added_class_begins_with_the_former_head(toy_config, toy_run, tmp_path):
    images = tmp_path / "images"
    shutil.copytree(toy_config["data"]["path"], images)
    random = np.random.default_rng(5)
    (images / "green").mkdir()  # stands between cyan and magenta
    for number in range(60):
        pixels = np.array([0, 255, 0]) * random.uniform(0.2, 1) + random.normal(80, 30, (30, 40, 3))
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(images / "green" / f"{number}.png")
    former = tf.train.load_checkpoint(str(toy_run.model))
    config = {**toy_config, "data": {"path": str(images)}, "evaluate": {"thresholds": {"accuracy": 0.4}}}
    status, record = run_pipeline(
        tmp_path, config, train={"epochs": 1, "learning_rate": 1e-9, "warm_start": str(toy_run.root)}
    )
    untrained = tf.train.load_checkpoint(str(tmp_path / "run" / "model"))
    for name in (WEIGHTS, BIASES):
        np.testing.assert_allclose(untrained.get_tensor(name)[..., [0, 2, 3]], former.get_tensor(name), atol=1e-6)
        np.testing.assert_allclose(untrained.get_tensor(name)[..., 1], 0, atol=1e-6)
    assert status == 0 and record["counts"]["classes"] == 4
    assert record["metrics"]["accuracy"] > 0.5  # three of four classes are known already
    started = read_outcome(RunDir(tmp_path / "run"), "train", Head)
    train = {"epochs": 20, "batch_size": 16, "learning_rate": 0.01, "warm_start": str(toy_run.root)}
    run_pipeline(tmp_path, config, "--only", "train", train=train)
    trained = read_outcome(RunDir(tmp_path / "run"), "train", Head)
    assert trained.val_accuracy > started.val_accuracy + 0.1
    assert trained.val_loss < started.val_loss


def test_a_former_run_that_is_trained_again_is_started_from_again(toy_config, toy_run, tmp_path):
    former = tmp_path / "former"
    for copy in (former, tmp_path / "run"):
        shutil.copytree(toy_run.root, copy)
    train = {"epochs": 1, "learning_rate": 1e-9, "warm_start": str(former)}

    def stages_run():
        _, record = run_pipeline(tmp_path, toy_config, train=train)
        return [name for name, stage in record["stages"].items() if not stage["skipped"]]

    assert "train" in stages_run()
    assert stages_run() == []
    path = write_config(tmp_path / "f.yaml", **{**toy_config, "output_dir": str(former)})
    main(["run", str(path), "--only", "train", "train.epochs=2"])
    assert stages_run() == ["train", "export", "evaluate", "report"]
    weights = [tf.train.load_checkpoint(str(run / "model")).get_tensor(WEIGHTS) for run in (former, tmp_path / "run")]
    np.testing.assert_allclose(*weights, atol=1e-6)
    assert stages_run() == []


def test_a_warm_start_from_nowhere_ends_the_run_with_a_sentence(toy_config, tmp_path, toy_run, capsys):
    shutil.copytree(toy_run.root, tmp_path / "run")
    status, _ = run_pipeline(tmp_path, toy_config, train={"warm_start": str(tmp_path / "none")})
    assert status == 2
    assert f"train.warm_start names '{tmp_path / 'none'}'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"head": {"output": "sigmoid"}}, "which is for two classes, and the data has 3"),
        ({"train": {"class_weight": {"cyann": 2}}}, "train.class_weight names 'cyann'"),
        ({"train": {"warm_start": "nowhere"}}, "train.warm_start names 'nowhere'"),
    ],
)
def test_what_training_would_refuse_is_refused_before_an_image_is_read(toy_config, tmp_path, capsys, changes, words):
    config = write_config(tmp_path / "c.yaml", **{**toy_config, **changes, "output_dir": str(tmp_path / "run")})
    assert main(["run", str(config)]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "run" / "examples").exists()
