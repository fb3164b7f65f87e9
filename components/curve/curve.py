"""Curve: accuracy by number of training images per class, over random draws from cached bottlenecks."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from rich.console import Console
from tensorboard.plugins.hparams import api as hparams

from components.curve.settings import CurvePlan
from components.errors import UserError
from components.features import INDEX, SPLITS
from components.outcomes import Bottlenecks, Curve, Examples, Work
from components.run_dir import RunDir
from components.shards.bottlenecks import Vectors, read_bottlenecks
from components.shards.records import shard_files
from components.storage.ownership import replacing_folder
from components.storage.tables import write_csv
from components.terminal.progress import Progress
from components.train.estimator import HeadClassifier
from components.train.inputs import evaluate_from_memory, train_from_memory
from components.train.normalization import MEASURED, normalize_lengths, scale_vectors
from components.train.settings import Architecture, Recipe, resolve_architecture, settle_recipe
from components.train.training_plan import TrainingPlan, choose_epochs, plan_training

LEAVE_OUT, SHRINK, FAIL = "leave_out", "shrink", "fail"


class CurveRow(NamedTuple):
    """One training of curve.csv: accuracy over all test images, mean_class_accuracy over a limited number per class."""

    backbone: str
    per_class: str
    draw: int
    accuracy: float
    mean_class_accuracy: float
    train_images: int
    test_images: int
    l2: float


class Draw(NamedTuple):
    """Rows int64[N] for training and for testing, and the labels of classes with too few images."""

    train: np.ndarray
    test: np.ndarray
    small: list[int]


def draw_rows(labels: np.ndarray, shots: str, small_classes: str, seed: Sequence[int]) -> Draw:
    """Split the rows of int64[N] labels at random: `shots` of each class for training, the rest, shuffled, to test."""
    random = np.random.default_rng(seed)
    train, test, small = [], [], []
    for label in range(labels.max() + 1):
        rows = random.permutation(np.flatnonzero(labels == label))
        count = count_shots(shots, len(rows))
        if count >= len(rows):
            small.append(label)
            rows = rows if small_classes == SHRINK else rows[:0]
            count = max(len(rows) - 1, 0)
        train.append(rows[:count])
        test.append(rows[count:])
    return Draw(np.concatenate(train), np.concatenate(test), small)


def count_shots(shots: str, images: int) -> int:
    """Return the number of training images of a class: a number as it is, a fraction rounded so that one is left."""
    if not shots.endswith("%"):
        return int(shots)
    return min(max(math.floor(images * float(shots[:-1]) / 100 + 0.5), 1), images - 1) if images > 1 else images


def measure_curve(
    examples: Examples,
    backbones: Mapping[str, Sequence[Bottlenecks]],
    plan: CurvePlan,
    architecture: Architecture,
    recipe: Recipe,
    run: RunDir,
    progress: Progress,
) -> Curve:
    """Write curve/ with curve.csv and TensorBoard's HParams; each backbone, by its title, is one or several parts.

    All backbones have the same draws. Raises UserError where a class is too small and the plan does not allow that.
    """
    rows: list[CurveRow] = []
    small: dict[str, list[str]] = {}
    total = len(backbones) * len(plan.shots) * plan.draws
    with replacing_folder(run.curve) as folder:
        for title, parts in backbones.items():
            vectors = join_parts([read_all(examples, part, run) for part in parts], parts[0].average)
            for shots in plan.shots:
                for number in range(plan.draws):
                    draw = draw_rows(vectors.labels, shots, plan.small_classes, (recipe.seed or 0, number))
                    small[shots] = [examples.labels[label] for label in draw.small]
                    check_draw(draw, shots, small[shots], plan.small_classes)
                    actual, predicted, l2 = measure_draw(vectors, draw, number, examples, run, architecture, recipe)
                    hits = float((predicted == actual).mean())
                    mean = mean_class_accuracy(actual, predicted, plan.max_test_per_class)
                    row = CurveRow(title, shots, number, hits, mean, len(draw.train), len(draw.test), l2)
                    write_hparams(folder, row)
                    rows.append(row)
                    progress.report(len(rows), total, "trainings")
        rounded = ([*row[:3], *(round(value, 6) for value in row[3:])] for row in rows)
        write_csv(folder / run.curve_rows.name, CurveRow._fields, rounded)
    return Curve(Work(total, computed=total), list(describe_small(small, plan.small_classes)))


def read_all(examples: Examples, bottlenecks: Bottlenecks, run: RunDir) -> Vectors:
    """Read the bottlenecks of all splits, sorted by key: of all views, or the served ones of a model that averages."""
    files = [file for split in SPLITS for file in shard_files(bottlenecks.folder(run), split, examples.shards)]
    views = 1 if bottlenecks.average else bottlenecks.view_count
    table = read_bottlenecks(files, bottlenecks.dim, views)
    order = np.argsort(np.array(table.keys, object), kind="stable")
    return Vectors(table.views[order], table.labels[order])


def join_parts(parts: Sequence[Vectors], average: bool) -> Vectors:
    """Join bottlenecks float32[N, V, D] of several backbones as their joint canonical graph does: each by sqrt(D).

    Averages of views are not normalized: they are means of unit vectors, and shorter where an image's views differ.
    """
    if len(parts) == 1:
        return parts[0]
    scaled = [values * values.shape[-1] ** 0.5 if average else normalize_lengths(values) for values, _ in parts]
    return Vectors(np.concatenate(scaled, -1), parts[0].labels)


def check_draw(draw: Draw, shots: str, small: Sequence[str], small_classes: str) -> None:
    """Raise UserError where classes are too small and that is not allowed, or where no images are left."""
    if small and small_classes == FAIL:
        raise UserError(
            f"{len(small)} classes, '{small[0]}' the first, are too small to train on {shots} images and test on one: "
            f"add images, lower curve.shots, or set curve.small_classes to {LEAVE_OUT} or {SHRINK}."
        )
    if not len(draw.train) or not len(draw.test):
        raise UserError(f"No class has enough images to train on {shots} and test on one: lower curve.shots.")


def measure_draw(
    vectors: Vectors,
    draw: Draw,
    seed: int,
    examples: Examples,
    run: RunDir,
    architecture: Architecture,
    recipe: Recipe,
) -> tuple[np.ndarray, np.ndarray, float]:
    """Train a head on one draw; return the labels of the test rows int64[N], the predicted ones, and the L2 weight."""
    train, test = vectors.select(draw.train), vectors.select(draw.test)
    architecture = resolve_architecture(architecture, len(examples.labels), vectors.values.shape[-1])
    recipe, _ = settle_recipe(recipe, architecture, vectors.values.shape[1])
    training = plan_training(train, None, examples.labels, run.labels, architecture, recipe, {})
    # Once, not in each step of the graph: whitening several backbones would take most of the time.
    train, test = (
        part._replace(values=scale_vectors(part.values, architecture.normalize, training.start))
        for part in (train, test)
    )
    training = leave_unscaled(training)
    epochs = choose_epochs(len(draw.train), recipe)
    with tempfile.TemporaryDirectory() as folder:
        classifier = HeadClassifier(Path(folder), training.head, seed)
        batches = train_from_memory(train, epochs, recipe.batch_size, seed)
        classifier.fit(batches, None, epochs, Progress(Console(quiet=True)), training.start)
        answers = classifier.predict(evaluate_from_memory(test.values[:, 0], test.labels).input_fn, [INDEX])
        predicted = np.array([answer[INDEX] for answer in answers])
        tf.compat.v1.summary.FileWriterCache.clear()
    assert training.head.optimization
    return test.labels, predicted, training.head.optimization.l2


def leave_unscaled(training: TrainingPlan) -> TrainingPlan:
    """Return the plan of the same training for bottlenecks that are already scaled."""
    architecture = training.head.architecture
    measured = MEASURED.get(architecture.normalize, ())
    start = {name: value for name, value in training.start.items() if name not in measured}
    return TrainingPlan(replace(training.head, architecture=replace(architecture, normalize="none")), start)


def mean_class_accuracy(actual: np.ndarray, predicted: np.ndarray, most: int) -> float:
    """Return the mean of the classes' accuracies in [0, 1], each over its first `most` images."""
    classes = [np.flatnonzero(actual == label)[:most] for label in np.unique(actual)]
    return float(np.mean([(predicted[rows] == actual[rows]).mean() for rows in classes]))


def describe_small(small: Mapping[str, Sequence[str]], small_classes: str) -> Iterator[str]:
    """Yield a sentence for each number of images per class that some classes do not have."""
    done = "are left out" if small_classes == LEAVE_OUT else "train on all their images but one"
    for shots, names in small.items():
        if names:
            yield f"At {shots} images per class, {len(names)} classes have too few and {done}: {', '.join(names)}."


def write_hparams(folder: Path, row: CurveRow) -> None:
    """Write one training for TensorBoard's HParams page."""
    place = folder / "hparams" / f"{row.backbone}-{row.per_class}-{row.draw}".replace("/", "_").replace("%", "pc")
    writer = tf.summary.create_file_writer(str(place))
    with writer.as_default(step=0):
        hparams.hparams({"backbone": row.backbone, "per_class": row.per_class, "draw": row.draw, "l2": row.l2})
        tf.summary.scalar("accuracy", row.accuracy)
        tf.summary.scalar("mean_class_accuracy", row.mean_class_accuracy)
    writer.close()
