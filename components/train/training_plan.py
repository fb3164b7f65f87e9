"""The plan of a training: steps, penalty, weights of classes, and the first values of the head."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from components.features import AUTO
from components.shards.bottlenecks import Source, Vectors
from components.train.logistic_regression import Objective, choose_penalty, fit_linear, make_objective, split_folds
from components.train.model import HeadParams
from components.train.normalization import Variables, measure_scaling, scale_vectors
from components.train.optimization import Optimization
from components.train.settings import BALANCED, SIGMOID, Architecture, Recipe, check_class_weight
from components.train.warm_start import WEIGHTS, set_output

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


def count_images(data: Images) -> int:
    """Return the number of images."""
    return data.count if isinstance(data, Source) else len(data.labels)


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
