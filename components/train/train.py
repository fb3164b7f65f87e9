"""Train: fit a head on the bottlenecks by an Estimator and keep its best checkpoint."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from components.errors import UserError
from components.features import AUTO
from components.outcomes import Bottlenecks, Examples, Head, Work
from components.run_dir import REFIT, RunDir
from components.shards.bottlenecks import Source, Vectors, load_vectors
from components.shards.records import naming_damage, shard_files
from components.storage.ownership import replacing_folder
from components.storage.tables import write_csv
from components.terminal.progress import Progress
from components.train.estimator import Epoch, HeadClassifier, epoch_rank
from components.train.inputs import (
    Batches,
    default_memory,
    evaluate_from_memory,
    evaluate_from_shards,
    train_from_memory,
    train_from_shards,
)
from components.train.logistic_regression import Objective, choose_penalty, fit_linear, make_objective, split_folds
from components.train.model import HeadParams, model_fn
from components.train.normalization import Variables, measure_scaling, scale_vectors
from components.train.optimization import Optimization
from components.train.settings import (
    BALANCED,
    SIGMOID,
    Architecture,
    Recipe,
    check_class_weight,
    resolve_architecture,
    settle_recipe,
)
from components.train.warm_start import WEIGHTS, read_former_head, set_output

# Adam at the default rate needs about this many steps for a data set of any size: on Caltech-101 and on 18,000 made-up
# bottlenecks of 257 classes more did not raise validation accuracy.
DEFAULT_STEPS = 300
FEWEST_EPOCHS, MOST_EPOCHS = 4, 100

# The images of a training: in memory, or in shards.
Images = Vectors | Source


class TrainingPlan(NamedTuple):
    """Parameters of the head's graph and the first values of its variables."""

    head: HeadParams
    start: Variables

    @property
    def optimization(self) -> Optimization:
        """The settings of the training."""
        assert self.head.optimization
        return self.head.optimization

    def replace_optimization(self, **changes: Any) -> TrainingPlan:
        """Return the plan with other settings of the training."""
        return self._replace(head=replace(self.head, optimization=replace(self.optimization, **changes)))


class Splits(NamedTuple):
    """The images to train on, those to validate on, and both together."""

    train: Images
    val: Images
    both: Images


def train_head(
    examples: Examples,
    bottlenecks: Bottlenecks,
    run: RunDir,
    architecture: Architecture,
    recipe: Recipe,
    progress: Progress,
) -> Head:
    """Fit the head on the train split; write model/ with TensorBoard events, history.csv and the best checkpoint.

    A start from a trained head (the optimum of l2 auto or a warm start) counts as epoch 0 and is kept where no epoch is
    better on the validation split. With refit, refit/ has the head that is trained again on both splits. Bottlenecks
    are held in memory where those of both splits fit max_memory bytes. Raises DamagedShard for a damaged file and
    UserError for a recipe that does not suit the data or, with l2 auto, the memory.
    """
    labels, memory = examples.labels, recipe.max_memory or default_memory()
    architecture = resolve_architecture(architecture, len(labels), bottlenecks.dim)
    train, val = (read_source(examples, bottlenecks, run, split) for split in ("train", "val"))
    both = replace(train, files=[*train.files, *val.files], count=train.count + val.count)
    start: Variables = {}
    if recipe.warm_start:
        start = read_former_head(recipe.warm_start, labels, bottlenecks.backbone_id, architecture)
    # With many classes, their scores are more than the bottlenecks.
    needed = both.bytes + both.count * len(labels) * 4
    recipe, notes = settle_recipe(replace(recipe, max_memory=memory), architecture, train.views, needed <= memory)
    if recipe.l2 == AUTO and needed > memory:
        raise UserError(
            f"train.l2 is auto, which needs all bottlenecks in memory ({needed:,} bytes with the scores of the "
            f"classes, found {memory:,}): set train.max_memory to as much or train.l2 to a number, such as 0.001."
        )
    with replacing_folder(run.model) as partial, naming_damage(both.files):
        if both.bytes <= memory:
            vectors = load_vectors(both)
            held = vectors.cut(0, train.count), vectors.cut(train.count, both.count)
            splits = Splits(*held, vectors)
            plan = plan_training(*held, labels, run.labels, architecture, recipe, start)
        else:
            splits = Splits(train, val, both)
            plan = plan_head(train, labels, run.labels, architecture, recipe, start)
        history = fit_head(partial, splits, plan, recipe, progress)
        write_history(history, partial / run.history.name)
    best, l2 = max(history, key=epoch_rank), plan.optimization.l2
    work = Work(train.count, computed=train.count)
    return Head(work, best.epoch, best.val_accuracy, best.val_loss, l2, recipe.refit, notes)


def fit_head(folder: Path, splits: Splits, plan: TrainingPlan, recipe: Recipe, progress: Progress) -> list[Epoch]:
    """Train a head in a folder as planned, and with refit once more in refit/ below it; return the first's history."""
    seed, images = recipe.seed or 0, count_images(splits.train)
    epochs = choose_epochs(images, recipe)
    train, val = draw_batches(splits.train, epochs, recipe), draw_batches(splits.val, None, recipe)
    classifier = HeadClassifier(folder, plan.head, seed)
    history = classifier.fit(train, val, epochs, progress, plan.start, recipe.patience)
    if recipe.refit:
        best = max(history, key=epoch_rank).epoch
        again = draw_batches(splits.both, best, recipe)
        # As many passes over the images as the best epoch had, of a schedule of as many as was planned.
        planned = plan.optimization.steps
        steps, of_schedule = (
            -(-number * again.per_pass // train.per_pass) for number in (min(best * train.per_pass, planned), planned)
        )
        plan = plan_refit(splits.both, plan, recipe).replace_optimization(steps=of_schedule)
        batches = again._replace(input_fn=lambda: again.input_fn().take(steps))
        HeadClassifier(folder / REFIT, plan.head, seed).fit(batches, None, best, progress, plan.start)
    tf.compat.v1.summary.FileWriterCache.clear()
    return history


def count_images(data: Images) -> int:
    """Return the number of images."""
    return data.count if isinstance(data, Source) else len(data.labels)


def draw_batches(data: Images, epochs: int | None, recipe: Recipe) -> Batches:
    """Return batches to train on for some epochs, or to validate on."""
    size, seed = recipe.batch_size, recipe.seed or 0
    if isinstance(data, Vectors):
        if epochs is None:
            return evaluate_from_memory(data.values[:, 0], data.labels)
        return train_from_memory(data, epochs, size, seed)
    if epochs is None:
        return evaluate_from_shards(data)
    return train_from_shards(data, epochs, size, seed, recipe.max_memory or default_memory())


def write_history(history: Sequence[Epoch], path: Path) -> None:
    """Write history.csv, one row per epoch."""
    write_csv(path, Epoch._fields, [[epoch.epoch, *(f"{value:.6f}" for value in epoch[1:])] for epoch in history])


def read_source(examples: Examples, bottlenecks: Bottlenecks, run: RunDir, split: str) -> Source:
    """Return the bottleneck shards of a split: with all views for training unless the model averages them, else served.

    For a model that averages, training on averages or on all views differs by 0.1 points on Caltech-101.
    """
    views = bottlenecks.view_count if split == "train" and not bottlenecks.average else 1
    files = shard_files(bottlenecks.folder(run), split, examples.shards)
    return Source(files, examples.splits[split], bottlenecks.dim, views)


def plan_training(
    train: Vectors,
    val: Vectors | None,
    labels: Sequence[str],
    labels_file: Path,
    architecture: Architecture,
    recipe: Recipe,
    start: Variables,
) -> TrainingPlan:
    """Return the plan of a training in memory; without val, l2 auto is chosen by cross-validation."""
    automatic = recipe.l2 == AUTO
    numbers = replace(recipe, l2=0.0) if automatic else recipe
    plan = plan_head(train, labels, labels_file, architecture, numbers, start)
    if not automatic:
        return plan

    def pair(fitted: Vectors, held_out: Vectors) -> tuple[Objective, Objective]:
        # The scaling is that of the fitted part alone: whitening also by held-out classes would leak these.
        scaling = plan.start if fitted is train else start or scale_by(fitted, plan.head)
        return make_loss(fitted, plan.head, scaling), make_loss(held_out, plan.head, scaling)

    pairs = [(train, val)] if val else [tuple(map(train.select, rows)) for rows in split_folds(train.labels)]
    chosen = choose_penalty([pair(*parts) for parts in pairs])
    # The softmax halves a single output's weights.
    plan = plan.replace_optimization(l2=chosen / 2 if architecture.output == SIGMOID else chosen)
    return plan if recipe.warm_start else start_at_optimum(plan, train)


def plan_head(
    data: Images,
    labels: Sequence[str],
    labels_file: Path,
    architecture: Architecture,
    recipe: Recipe,
    start: Variables,
) -> TrainingPlan:
    """Return the plan of a training for which l2 is a number; it begins with zeros or start."""
    class_weights = weigh_data(recipe.class_weight, data, labels)
    optimization = make_optimization(recipe, count_images(data), class_weights)
    head = HeadParams(len(labels), str(labels_file), architecture, optimization)
    return TrainingPlan(head, start or scale_by(data, head))


def plan_refit(data: Images, plan: TrainingPlan, recipe: Recipe) -> TrainingPlan:
    """Return the plan of the same training on other images: it begins as that of the plan does."""
    if recipe.warm_start:
        return plan
    again = plan._replace(start=scale_by(data, plan.head))
    return start_at_optimum(again, data) if isinstance(data, Vectors) and WEIGHTS in plan.start else again


def start_at_optimum(plan: TrainingPlan, train: Vectors) -> TrainingPlan:
    """Return the plan with the optimum of a linear head over the served bottlenecks as its first values."""
    output, l2 = plan.head.architecture.output, plan.optimization.l2
    optimum = fit_linear(make_loss(train, plan.head, plan.start), 2 * l2 if output == SIGMOID else l2)
    return plan._replace(start=plan.start | set_output(optimum, output))


def scale_by(data: Images, head: HeadParams) -> Variables:
    """Return the variables of the head's scaling, measured on some images."""
    return measure_scaling(data.parts, head.architecture.normalize, head.classes)


def make_loss(vectors: Vectors, head: HeadParams, scaling: Variables) -> Objective:
    """Return the loss of a linear head without its penalty."""
    assert head.optimization
    values = scale_vectors(vectors.values[:, 0], head.architecture.normalize, scaling)
    smoothing, class_weights = head.optimization.label_smoothing, head.optimization.class_weights
    return make_objective(values, vectors.labels, head.classes, smoothing, class_weights)


def make_optimization(recipe: Recipe, images: int, class_weights: Sequence[float] | None) -> Optimization:
    """Return the optimization of a settled recipe whose l2 is a number, for its steps or those of its epochs."""
    assert recipe.learning_rate and recipe.l2 is not None
    return Optimization(
        steps=recipe.steps or choose_epochs(images, recipe) * math.ceil(images / recipe.batch_size),
        learning_rate=recipe.learning_rate,
        l2=float(recipe.l2),
        optimizer=recipe.optimizer,
        momentum=recipe.momentum,
        schedule=recipe.schedule,
        label_smoothing=recipe.label_smoothing,
        class_weights=class_weights,
    )


def choose_epochs(images: int, recipe: Recipe) -> int:
    """Return the recipe's epochs, or those of its steps, by default about DEFAULT_STEPS; the last may be cut short."""
    epochs = recipe.epochs or math.ceil((recipe.steps or DEFAULT_STEPS) / math.ceil(images / recipe.batch_size))
    return epochs if recipe.epochs or recipe.steps else min(max(epochs, FEWEST_EPOCHS), MOST_EPOCHS)


def weigh_classes(
    asked: str | Mapping[str, float] | None, counts: np.ndarray, labels: Sequence[str]
) -> list[float] | None:
    """Return a weight per class from counts int64[C], 1 on average over the training images, or None.

    Balanced gives each class the same total (scikit-learn's rule: images / (classes * images of the class)). Raises
    UserError for an unknown class.
    """
    if asked is None:
        return None
    if asked == BALANCED:
        weights = 1 / np.maximum(counts, 1)
    else:
        assert not isinstance(asked, str)
        check_class_weight(asked, labels)
        weights = np.array([asked.get(label, 1.0) for label in labels])
    scaled: list[float] = (weights * counts.sum() / max((weights * counts).sum(), 1e-12)).tolist()
    return scaled


def weigh_data(asked: str | Mapping[str, float] | None, data: Images, labels: Sequence[str]) -> list[float] | None:
    """Return a weight per class as weigh_classes does, from the labels of images; without weights none is read."""
    if asked is None:
        return None
    counts = sum(np.bincount(part.labels, minlength=len(labels)) for part in data.parts())
    return weigh_classes(asked, np.asarray(counts), labels)


def load_classifier(
    examples: Examples,
    bottlenecks: Bottlenecks,
    folder: Path,
    run: RunDir,
    architecture: Architecture,
    threshold: float | None = None,
    build: Callable[..., tf.estimator.EstimatorSpec] = model_fn,
) -> HeadClassifier:
    """Return the Estimator of a head trained in a folder, to evaluate and export; it abstains below the threshold."""
    architecture = resolve_architecture(architecture, len(examples.labels), bottlenecks.dim)
    params = HeadParams(len(examples.labels), str(run.labels), architecture, abstention_threshold=threshold)
    return HeadClassifier(folder, params, seed=0, build=build)  # nothing is drawn
