"""Train: fit a head on the bottlenecks by an Estimator and keep its best checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

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
from components.train.model import HeadParams, model_fn
from components.train.normalization import Variables
from components.train.settings import (
    Architecture,
    Recipe,
    resolve_architecture,
    settle_recipe,
)
from components.train.training_plan import (
    Images,
    TrainingPlan,
    choose_epochs,
    count_images,
    plan_head,
    plan_refit,
    plan_training,
)
from components.train.warm_start import read_former_head


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
