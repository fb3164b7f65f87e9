"""The configuration of what is trained: the head, its training, abstention and the curve."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from components.backbones.spec import Spec, parse_backbone
from components.run_dir import RunDir
from pipeline.section import Place, Section


def _is_number(value: Any) -> bool:
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer of 400 digits
        return False


class HiddenLayer(Section):
    """A dense layer of the head; dropout is the share of its outputs dropped in training."""

    units: int = Field(ge=1)
    activation: Literal["relu", "tanh", "sigmoid", "elu", "selu", "gelu", "swish", "linear"] = "relu"
    dropout: float = Field(0, ge=0, lt=1)
    l2: float = Field(0, ge=0)


class Head(Section):
    """The head: hidden layers, a single sigmoid output or a soft-max, how bottlenecks are scaled before them."""

    hidden: tuple[HiddenLayer, ...] = ()
    output: Literal["auto", "softmax", "sigmoid"] = "auto"
    normalize: Literal["l2", "standardize", "whiten", "none"] = "l2"

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        if value == "linear":
            return {}
        if isinstance(value, list):
            return {"hidden": value}
        if not isinstance(value, (dict, Head)):
            raise ValueError("expected linear, a list of hidden layers such as [{units: 512}], or a section")
        return value


class Schedule(Section):
    """How the learning rate falls, by the step; warmup steps rise to it."""

    kind: Literal["constant", "exponential", "cosine"] = "cosine"
    warmup: int = Field(0, ge=0)
    decay: float = Field(0.9, gt=0, le=1)
    decay_steps: int = Field(500, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return {"kind": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _decay_is_exponential(self) -> Schedule:
        unused = sorted({"decay", "decay_steps"} & self.model_fields_set)
        if unused and self.kind != "exponential":
            raise ValueError(f"{unused[0]} belongs to kind exponential, expected that kind or no {unused[0]}")
        return self


class Finetune(Section):
    """Which layers of the backbone are trained on, the last so many or those behind one, and how images are distorted.

    learning_rate is the backbone's, by the optimizer and schedule of train.
    """

    layers: int | None = Field(None, ge=1)
    behind: str | None = Field(None, alias="from", min_length=1)
    learning_rate: float = Field(0.0003, gt=0)
    head_learning_rate: float = Field(0.0003, gt=0)
    epochs: int = Field(10, ge=1)
    batch_size: int = Field(32, ge=1)
    flip: bool = True
    crop: float = Field(0.7, gt=0, le=1)
    colour: float = Field(0.2, ge=0, lt=1)
    patience: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _one_start(self) -> Finetune:
        if (self.layers is None) == (self.behind is None):
            found = "both layers and from are" if self.layers else "neither layers nor from is"
            raise ValueError(f"{found} set, expected one: how many last layers, or the name of the layer before them")
        return self


class Train(Section):
    """How the head is trained; by default for 300 steps, with bottlenecks in a fifth of the memory at most."""

    epochs: int | None = Field(None, ge=1)
    steps: int | None = Field(None, ge=1)
    batch_size: int = Field(256, ge=1)
    optimizer: Literal["sgd", "momentum", "adam", "adamw"] = "adam"
    momentum: float = Field(0.9, ge=0, lt=1)
    learning_rate: float = Field(0.003, gt=0)
    schedule: Schedule = Schedule()
    l2: float | Literal["auto"] = 0.001
    label_smoothing: float = Field(0, ge=0, lt=1)
    class_weight: Literal["balanced"] | dict[str, float] | None = None
    patience: int | None = Field(None, ge=1)
    warm_start: Place | None = None
    max_memory: int | None = Field(None, ge=1)
    finetune: Finetune | None = None

    @field_validator("l2", mode="before")
    @classmethod
    def _number_or_auto(cls, value: Any) -> Any:
        if value != "auto" and not (_is_number(value) and value >= 0):
            raise ValueError("expected a number of 0 or more, or auto")
        return value

    @field_validator("class_weight", mode="before")
    @classmethod
    def _weights_or_balanced(cls, value: Any) -> Any:
        if isinstance(value, dict):
            if all(_is_number(weight) and weight >= 0 for weight in value.values()):
                return value
        elif value in (None, "balanced"):
            return value
        raise ValueError("expected balanced, or numbers of 0 or more by class such as {cat: 2, dog: 1}")

    @model_validator(mode="after")
    def _one_length(self) -> Train:
        if self.epochs and self.steps:
            raise ValueError(f"epochs is {self.epochs} and steps is {self.steps}, expected one of the two")
        return self

    @model_validator(mode="after")
    def _auto_is_a_penalty(self) -> Train:
        if self.l2 == "auto" and self.optimizer == "adamw":
            # Decoupled decay has another optimum than the penalty, at which auto starts.
            raise ValueError(
                "l2 is auto, which chooses a penalty, and adamw has none: set a number or another optimizer"
            )
        return self

    @property
    def former_model(self) -> Path | None:
        """The checkpoint's folder of the run that training goes on from."""
        return self.warm_start and RunDir(self.warm_start).model


class Abstain(Section):
    """The precision that answers are to have, by a probability threshold chosen on the validation split."""

    precision: float = Field(gt=0, lt=1)


class Curve(Section):
    """The experiment of topgraft curve: backbones side by side, training images a class or shares of it, and draws."""

    backbones: tuple[tuple[Spec, ...], ...] = ()
    shots: tuple[str, ...] = ("15", "30")
    draws: int = Field(5, ge=1)
    small_classes: Literal["leave_out", "shrink", "fail"] = "leave_out"
    max_test_per_class: int = Field(50, ge=1)

    @field_validator("backbones", mode="before")
    @classmethod
    def _parse_backbones(cls, value: Any) -> tuple[tuple[Spec, ...], ...]:
        if not isinstance(value, (list, tuple)):
            raise ValueError("expected a list of backbones; one of several side by side is a list itself")
        return tuple(parse_backbone(part) for part in value)

    @field_validator("shots", mode="before")
    @classmethod
    def _read_shots(cls, value: Any) -> tuple[str, ...]:
        shots = [str(part).strip() for part in (value if isinstance(value, (list, tuple)) else str(value).split(","))]
        for text in shots:
            number = text[:-1] if text.endswith("%") else text
            if not number.isdecimal() or int(number) < 1 or (text.endswith("%") and int(number) > 99):
                raise ValueError(f"found '{text}', expected numbers of images such as 15,30 or shares such as 60%")
        return tuple(shots)
