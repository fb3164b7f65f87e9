"""Train: fit a head on the bottlenecks by an Estimator and keep its best checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from components.errors import UserError
from components.features import AUTO
from components.outcomes import Bottlenecks, Examples, Head, Work
from components.run_dir import RunDir
from components.shards.bottlenecks import Source, Vectors, load_vectors, read_vectors
from components.shards.records import naming_damage, shard_files
from components.storage.ownership import replacing_folder
from components.storage.tables import write_csv
from components.terminal.progress import Progress
from components.train.estimator import Epoch, HeadClassifier, epoch_rank
from components.train.inputs import (
    default_memory,
    evaluate_from_memory,
    evaluate_from_shards,
    train_from_memory,
    train_from_shards,
)
from components.train.logistic_regression import Objective, choose_penalty, fit_linear, make_objective, split_folds
from components.train.model import HeadParams
from components.train.normalization import Variables, measure_scaling, scale_vectors
from components.train.optimization import Optimization
from components.train.settings import BALANCED, SIGMOID, Architecture, Recipe, check_class_weight, resolve_output
from components.train.warm_start import read_former_head, set_output

# Adam at the default rate needs about this many steps for a data set of any size: on Caltech-101 and on 18,000 made-up
# bottlenecks of 257 classes more did not raise validation accuracy.
DEFAULT_STEPS = 300
FEWEST_EPOCHS, MOST_EPOCHS = 4, 100


class TrainingPlan(NamedTuple):
    """Parameters of the head's graph and the first values of its variables."""

    head: HeadParams
    start: Variables


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
    better on the validation split. Bottlenecks are held in memory where both splits fit max_memory bytes. Raises
    DamagedShard for a damaged file and UserError for a recipe that does not suit the data or, with l2 auto, the memory.
    """
    labels, memory, seed = examples.labels, recipe.max_memory or default_memory(), recipe.seed or 0
    architecture = resolve_output(architecture, len(labels))
    sources = {split: read_source(examples, bottlenecks, run, split) for split in ("train", "val")}
    files = [file for source in sources.values() for file in source.files]
    images, batch_size = sources["train"].count, recipe.batch_size
    epochs = choose_epochs(images, recipe)
    start: Variables = {}
    if recipe.warm_start:
        start = read_former_head(recipe.warm_start, labels, bottlenecks.backbone_id, architecture)
    needed = sum(source.bytes for source in sources.values())
    if recipe.l2 == AUTO:
        needed += images * len(labels) * 4  # the scores: with many classes these are more than the bottlenecks
    held = needed <= memory
    if recipe.l2 == AUTO and not held:
        raise UserError(
            f"train.l2 is auto, which needs all bottlenecks in memory ({needed:,} bytes with the scores of the "
            f"classes, found {memory:,}): set train.max_memory to as much or train.l2 to a number, such as 0.001."
        )
    with replacing_folder(run.model) as partial, naming_damage(files):
        if held:
            vectors, val_vectors = load_vectors(sources["train"]), load_vectors(sources["val"])
            train = train_from_memory(vectors, epochs, batch_size, seed)
            val = evaluate_from_memory(val_vectors.values[:, 0], val_vectors.labels)
            plan = plan_training(vectors, val_vectors, labels, run.labels, architecture, recipe, start)
        else:
            train = train_from_shards(sources["train"], epochs, batch_size, seed, memory)
            val = evaluate_from_shards(sources["val"])
            plan = plan_streaming(sources["train"], labels, run.labels, architecture, recipe, start)
        classifier = HeadClassifier(partial, plan.head, seed)
        history = classifier.fit(train, val, epochs, progress, plan.start, recipe.patience)
        best = max(history, key=epoch_rank)
        tf.compat.v1.summary.FileWriterCache.clear()
        write_history(history, partial / run.history.name)
    assert plan.head.optimization
    l2 = plan.head.optimization.l2
    return Head(Work(images, computed=images), best.epoch, best.val_accuracy, best.val_loss, l2)


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

    def scale(vectors: Vectors) -> Variables:
        return start or measure_scaling(vectors.parts, architecture.normalize, len(labels))

    scaling = dict(scale(train))
    class_weights = weigh_classes(recipe.class_weight, np.bincount(train.labels, minlength=len(labels)), labels)
    l2 = recipe.l2
    if l2 == AUTO:

        def objective(vectors: Vectors, scaling: Variables) -> Objective:
            values = scale_vectors(vectors.values[:, 0], architecture.normalize, scaling)
            return make_objective(values, vectors.labels, len(labels), recipe.label_smoothing, class_weights)

        def pair(fitted: Vectors, held_out: Vectors) -> tuple[Objective, Objective]:
            # The scaling is that of the fitted part alone: whitening also by held-out classes would leak these.
            scaling = scale(fitted)
            return objective(fitted, scaling), objective(held_out, scaling)

        pairs = [(train, val)] if val else [tuple(map(train.select, rows)) for rows in split_folds(train.labels)]
        chosen = choose_penalty([pair(*parts) for parts in pairs])
        l2 = chosen / 2 if architecture.output == SIGMOID else chosen  # the softmax halves a single output's weights
        if not recipe.warm_start:
            scaling |= set_output(fit_linear(objective(train, scaling), chosen), architecture.output)
    optimization = make_optimization(recipe, len(train.labels), float(l2), class_weights)
    return TrainingPlan(HeadParams(len(labels), str(labels_file), architecture, optimization), scaling)


def plan_streaming(
    source: Source,
    labels: Sequence[str],
    labels_file: Path,
    architecture: Architecture,
    recipe: Recipe,
    start: Variables,
) -> TrainingPlan:
    """Return the plan of a training from shards, for which l2 is a number."""
    start = start or measure_scaling(lambda: read_vectors(source), architecture.normalize, len(labels))
    class_weights = weigh_shards(recipe.class_weight, source, labels)
    optimization = make_optimization(recipe, source.count, float(recipe.l2), class_weights)
    return TrainingPlan(HeadParams(len(labels), str(labels_file), architecture, optimization), start)


def make_optimization(recipe: Recipe, images: int, l2: float, class_weights: Sequence[float] | None) -> Optimization:
    """Return the optimization for the recipe's steps, or those of its epochs."""
    return Optimization(
        steps=recipe.steps or choose_epochs(images, recipe) * math.ceil(images / recipe.batch_size),
        learning_rate=recipe.learning_rate,
        l2=l2,
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


def weigh_shards(asked: str | Mapping[str, float] | None, source: Source, labels: Sequence[str]) -> list[float] | None:
    """Return a weight per class as weigh_classes does, from the labels in the shards; without weights none is read."""
    if asked is None:
        return None
    counts = sum(np.bincount(part.labels, minlength=len(labels)) for part in read_vectors(source))
    return weigh_classes(asked, np.asarray(counts), labels)


def load_classifier(
    examples: Examples, head: Head, run: RunDir, architecture: Architecture, threshold: float | None = None
) -> HeadClassifier:
    """Return the trained Estimator of a run, to evaluate, predict and export; it abstains below the threshold."""
    architecture = resolve_output(architecture, len(examples.labels))
    params = HeadParams(len(examples.labels), str(run.labels), architecture, abstention_threshold=threshold)
    return HeadClassifier(head.folder(run), params, seed=0)  # nothing is drawn
