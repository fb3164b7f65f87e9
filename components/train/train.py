"""Train: the Estimator fits a head on the bottlenecks and keeps its best checkpoint."""

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
from components.train.normalization import measure_scaling, scale_vectors
from components.train.optimization import Optimisation
from components.train.settings import (
    BALANCED,
    SIGMOID,
    Architecture,
    Recipe,
    check_class_weight,
    settle_output,
)
from components.train.warm_start import Start, read_former_head, set_output

# Adam at the default rate needs about this many steps, small data set or large: on Caltech-101 and on 18,000 made-up
# bottlenecks of 257 classes more did not raise validation accuracy.
STEPS = 300
EPOCHS = (4, 100)


class Plan(NamedTuple):
    """What training needs beside its batches: the graph's parameters and first values of variables."""

    head: HeadParams
    start: Start


def train_head(
    examples: Examples,
    bottlenecks: Bottlenecks,
    run: RunDir,
    architecture: Architecture,
    recipe: Recipe,
    progress: Progress,
) -> Head:
    """Fit the head on the train split; leaves model/ with TensorBoard events, history.csv and the best checkpoint.

    A start that is a trained head, the optimum of l2 auto or a warm start, counts as epoch 0: where no epoch is better
    on the validation split, it is kept. Bottlenecks are held in memory where both splits fit max_memory bytes. Raises
    DamagedShard for a damaged file and UserError for a recipe that does not suit the data or, with l2 auto, the memory.
    """
    labels, memory, seed = examples.labels, recipe.max_memory or default_memory(), recipe.seed or 0
    architecture = settle_output(architecture, len(labels))
    sources = {split: read_source(examples, bottlenecks, run, split) for split in ("train", "val")}
    files = [file for source in sources.values() for file in source.files]
    images, batch_size = sources["train"].count, recipe.batch_size
    epochs = choose_epochs(images, recipe)
    start: Start = {}
    if recipe.warm_start:
        start = read_former_head(recipe.warm_start, labels, bottlenecks.backbone_id, architecture)
    needed = sum(source.bytes for source in sources.values())
    if recipe.l2 == AUTO:
        needed += images * len(labels) * 4  # the scores of all classes, which over many are more than the bottlenecks
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
        optimisation = plan.head.optimisation
        assert optimisation
        tf.compat.v1.summary.FileWriterCache.clear()
        write_history(history, partial / run.history.name)
    return Head(Work(images, computed=images), best.epoch, best.val_accuracy, best.val_loss, optimisation.l2)


def write_history(history: Sequence[Epoch], path: Path) -> None:
    """Write history.csv, a row an epoch."""
    write_csv(path, Epoch._fields, [[epoch.epoch, *(f"{value:.6f}" for value in epoch[1:])] for epoch in history])


def read_source(examples: Examples, bottlenecks: Bottlenecks, run: RunDir, split: str) -> Source:
    """Return the bottleneck shards of a split: of all views for training, unless the model averages them, else served.

    A head for averages does as well when trained on them as on all views, 0.1 points of each other on Caltech-101.
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
    start: Start,
) -> Plan:
    """Settle all that the training of bottlenecks in memory needs; without val, l2 is chosen by cross-validation."""

    def scale(vectors: Vectors) -> Start:
        return start or measure_scaling(vectors.parts, architecture.normalize, len(labels))

    scaling = dict(scale(train))
    epochs = choose_epochs(len(train.labels), recipe)
    class_weights = weigh_classes(recipe.class_weight, np.bincount(train.labels, minlength=len(labels)), labels)
    l2 = recipe.l2
    if l2 == AUTO:
        factor = 2 if architecture.output == SIGMOID else 1  # the soft-max halves a single output's weights

        def objective(vectors: Vectors, scaling: Start) -> Objective:
            values = scale_vectors(vectors.values[:, 0], architecture.normalize, scaling)
            return make_objective(values, vectors.labels, len(labels), recipe.label_smoothing, class_weights)

        def pair(fitted: Vectors, judged: Vectors) -> tuple[Objective, Objective]:
            # Scaled by the fitted alone: whitening by the judged as well would give away their classes.
            scaling = scale(fitted)
            return objective(fitted, scaling), objective(judged, scaling)

        pairs = [(train, val)] if val else [tuple(map(train.select, rows)) for rows in split_folds(train.labels)]
        chosen = choose_penalty([pair(*parts) for parts in pairs])
        l2 = chosen / factor
        if not recipe.warm_start:
            scaling |= set_output(fit_linear(objective(train, scaling), chosen), architecture.output)
    optimisation = make_optimisation(recipe, epochs, len(train.labels), float(l2), class_weights)
    return Plan(HeadParams(len(labels), str(labels_file), architecture, optimisation), scaling)


def plan_streaming(
    source: Source, labels: Sequence[str], labels_file: Path, architecture: Architecture, recipe: Recipe, start: Start
) -> Plan:
    """Settle all that a training from shards needs, with a number for l2."""
    start = start or measure_scaling(lambda: read_vectors(source), architecture.normalize, len(labels))
    class_weights = weigh_shards(recipe.class_weight, source, labels)
    epochs = choose_epochs(source.count, recipe)
    optimisation = make_optimisation(recipe, epochs, source.count, float(recipe.l2), class_weights)
    return Plan(HeadParams(len(labels), str(labels_file), architecture, optimisation), start)


def make_optimisation(
    recipe: Recipe, epochs: int, images: int, l2: float, class_weights: Sequence[float] | None
) -> Optimisation:
    """Return how the steps go that the recipe asks for, or those of so many epochs."""
    return Optimisation(
        steps=recipe.steps or epochs * math.ceil(images / recipe.batch_size),
        learning_rate=recipe.learning_rate,
        l2=l2,
        optimizer=recipe.optimizer,
        momentum=recipe.momentum,
        schedule=recipe.schedule,
        label_smoothing=recipe.label_smoothing,
        class_weights=class_weights,
    )


def choose_epochs(images: int, recipe: Recipe) -> int:
    """Return the epochs asked for, or those that the steps asked for begin, or about STEPS within EPOCHS."""
    per_epoch = math.ceil(images / recipe.batch_size)
    fewest, most = EPOCHS
    by_default = min(max(math.ceil(STEPS / per_epoch), fewest), most)
    return recipe.epochs or (math.ceil(recipe.steps / per_epoch) if recipe.steps else by_default)


def weigh_classes(
    asked: str | Mapping[str, float] | None, counts: np.ndarray, labels: Sequence[str]
) -> list[float] | None:
    """Return a weight for each class, 1 on average over the training images; raises UserError for an unknown class.

    Balanced gives each class the same sum (scikit-learn's rule: images / (classes * images of the class)).
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
    """Return a weight for each class as weigh_classes does, the images counted in the shards only if need be."""
    if asked is None:
        return None
    counts = np.zeros(len(labels), np.int64)
    for part in read_vectors(source):
        counts += np.bincount(part.labels, minlength=len(labels))
    return weigh_classes(asked, counts, labels)


def load_classifier(
    examples: Examples, head: Head, run: RunDir, architecture: Architecture, threshold: float | None = None
) -> HeadClassifier:
    """Return the trained Estimator of a run, ready to evaluate, predict and export, abstaining below a threshold."""
    architecture = settle_output(architecture, len(examples.labels))
    params = HeadParams(len(examples.labels), str(run.labels), architecture, abstention_threshold=threshold)
    return HeadClassifier(head.folder(run), params, seed=0)  # nothing is drawn
