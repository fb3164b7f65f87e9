"""Settings of train: the head and its training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from components.errors import UserError
from components.features import AUTO
from components.run_dir import RunDir
from components.settings import Count, FractionAboveZero, FractionBelowOne, Place, Positive, is_number, settings

SOFTMAX, SIGMOID = "softmax", "sigmoid"
ADAMW = "adamw"
# The widest bottlenecks that are whitened by default: the matrix then has 268 MB.
MOST_WHITENED = 8192
# Where l2 cannot be chosen on the data.
FALLBACK_L2 = 0.001
# Training from the optimum of l2 auto takes few and small steps: more and larger ones lead away from it and back.
DEFAULT_RATE, OPTIMUM_RATE, OPTIMUM_STEPS = 0.003, 0.0001, 50
BALANCED = "balanced"


@settings
class HiddenLayer:
    """A dense layer of the head; dropout is the fraction of its outputs dropped, l2 the weight of its penalty."""

    units: Count
    activation: Literal["relu", "tanh", "sigmoid", "elu", "selu", "gelu", "swish", "linear"] = "relu"
    dropout: FractionBelowOne = 0.0
    l2: Annotated[float, Field(ge=0)] = 0.0


@settings
class Architecture:
    """The head: its hidden layers, one output per class or a single one for two, and the scaling of bottlenecks."""

    hidden: tuple[HiddenLayer, ...] = ()
    output: Literal["auto", "softmax", "sigmoid"] = "auto"
    normalize: Literal["auto", "l2", "standardize", "whiten", "none"] = "auto"

    @model_validator(mode="before")
    @classmethod
    def _read_short_forms(cls, value: Any) -> Any:
        if value == "linear":
            return {}
        if isinstance(value, list):
            return {"hidden": value}
        if not isinstance(value, dict | Architecture):
            raise ValueError("expected linear, a list of hidden layers such as [{units: 512}], or a section")
        return value


@settings
class Schedule:
    """The learning rate after warmup steps: constant, falling by decay per decay_steps, or as half a cosine to 0."""

    kind: Literal["constant", "exponential", "cosine"] = "cosine"
    warmup: Annotated[int, Field(ge=0)] = 0
    decay: FractionAboveZero = 0.9
    decay_steps: Count = 500

    @model_validator(mode="before")
    @classmethod
    def _read_short_form(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"kind": value}
        unused = sorted({"decay", "decay_steps"} & {*value}) if isinstance(value, dict) else []
        if unused and value.get("kind") != "exponential":
            raise ValueError(f"{unused[0]} belongs to kind exponential, expected that kind or no {unused[0]}")
        return value


Penalty = float | Literal["auto"]


def _read_l2(value: Any) -> Any:
    if value not in (None, AUTO) and not (is_number(value) and value >= 0):
        raise ValueError("expected a number of 0 or more, or auto")
    return value


def _read_class_weight(value: Any) -> Any:
    if isinstance(value, dict):
        if all(is_number(weight) and weight >= 0 for weight in value.values()):
            return value
    elif value in (None, BALANCED):
        return value
    raise ValueError("expected balanced, or numbers of 0 or more by class such as {cat: 2, dog: 1}")


@settings
class Recipe:
    """The training of the head, for a number of epochs or of steps; settle_recipe has the defaults of what is None.

    l2 is a number, or auto to choose it on training data and to start at its optimum.
    With refit the head is trained again on the train and val splits. class_weight is balanced or weights by class name.
    Bottlenecks are held in memory up to max_memory bytes, by default a fifth of the memory. The default of seed is the
    run's seed.
    """

    epochs: Count | None = None
    steps: Count | None = None
    batch_size: Count = 256
    optimizer: Literal["sgd", "momentum", "adam", "adamw"] = "adam"
    momentum: FractionBelowOne = 0.9
    learning_rate: Positive | None = None
    schedule: Schedule = Schedule()
    l2: Annotated[Penalty | None, BeforeValidator(_read_l2)] = None
    refit: bool = True
    label_smoothing: FractionBelowOne = 0.0
    class_weight: Annotated[Literal["balanced"] | dict[str, float] | None, BeforeValidator(_read_class_weight)] = None
    patience: Count | None = None
    warm_start: Place | None = None
    max_memory: Count | None = None
    seed: Annotated[int, Field(ge=0)] | None = None

    def __post_init__(self) -> None:
        if self.epochs and self.steps:
            raise ValueError(f"epochs is {self.epochs} and steps is {self.steps}, expected one of the two")
        if self.l2 == AUTO and self.optimizer == ADAMW:
            # Decoupled decay has another optimum than the penalty, at which auto starts.
            raise ValueError(
                "l2 is auto, which tunes an L2 penalty, but adamw uses weight decay: set a number or another optimizer"
            )

    @property
    def inputs(self) -> list[Path]:
        """The folder of the checkpoint that training starts from."""
        return [RunDir(self.warm_start).model] if self.warm_start else []


def resolve_architecture(architecture: Architecture, classes: int, dim: int) -> Architecture:
    """Return the head with each auto replaced.

    The output is a sigmoid for two classes, else a softmax; bottlenecks are whitened up to a width of MOST_WHITENED, as
    the matrix has the square of it, else scaled to one length. Raises UserError for a sigmoid output and another number
    of classes.
    """
    output, normalize = architecture.output, architecture.normalize
    if output == SIGMOID and classes != 2:
        raise UserError(
            f"head.output is sigmoid, which is for two classes, and the data has {classes}: set it to softmax."
        )
    if output == AUTO:
        output = "sigmoid" if classes == 2 else "softmax"
    if normalize == AUTO:
        normalize = "whiten" if dim <= MOST_WHITENED else "l2"
    return replace(architecture, output=output, normalize=normalize)


def settle_recipe(
    recipe: Recipe, architecture: Architecture, views: int = 1, fits: bool = True
) -> tuple[Recipe, list[str]]:
    """Return the recipe with l2, learning rate and steps where it has none, and a sentence where l2 cannot be auto.

    views is their number per training image, of which the optimum has seen one; fits tells whether the bottlenecks fit
    in memory with what auto needs.
    """
    reasons = {
        "for a head with hidden layers": bool(architecture.hidden),
        "for adamw, which decays weights instead": recipe.optimizer == ADAMW,
        "where the bottlenecks do not fit in train.max_memory": not fits,
    }
    reason = next((words for words, holds in reasons.items() if holds), None)
    l2, notes = recipe.l2, []
    if l2 is None and reason:
        l2, notes = FALLBACK_L2, [f"train.l2 is {FALLBACK_L2:g}: it is not chosen on the data {reason}."]
    elif l2 is None:
        l2 = "auto"
    rate, steps = DEFAULT_RATE, recipe.steps
    if l2 == AUTO and not recipe.warm_start and views == 1:
        rate, steps = OPTIMUM_RATE, steps if steps or recipe.epochs else OPTIMUM_STEPS
    return replace(recipe, l2=l2, learning_rate=recipe.learning_rate or rate, steps=steps), notes


def check_class_weight(asked: str | Mapping[str, float] | None, labels: Sequence[str]) -> None:
    """Raise UserError for a weight of a class that does not exist."""
    for name in asked if isinstance(asked, Mapping) else ():
        if name not in labels:
            known = ", ".join(labels[:5]) + (f" and {len(labels) - 5} more" if len(labels) > 5 else "")
            raise UserError(f"train.class_weight names '{name}', which is not a class: use one of {known}.")


def check_recipe(labels: Sequence[str], architecture: Architecture, recipe: Recipe) -> None:
    """Raise the UserErrors of training that can be found before hours of work on bottlenecks."""
    resolve_architecture(architecture, len(labels), 0)
    check_class_weight(recipe.class_weight, labels)
    if recipe.warm_start and not (RunDir(recipe.warm_start).model / "checkpoint").exists():
        raise no_trained_run(recipe.warm_start)


def no_trained_run(former: Path) -> UserError:
    """Return the error for a warm start from a folder without a trained run."""
    return UserError(
        f"train.warm_start names '{former}', which has no trained run: give the output_dir of a finished run."
    )
