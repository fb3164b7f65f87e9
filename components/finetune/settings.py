"""Settings of finetune: which layers of the backbone are trained on, and on which images."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from components.settings import Count, FractionAboveZero, FractionBelowOne, Positive, settings
from components.train.settings import Recipe


@settings
class Distortion:
    """What is drawn anew for each image in each epoch.

    flip mirrors every other image, crop is the least fraction of the area that is seen (1: all of it), colour by how
    much brightness, contrast and saturation change at most (0: not at all).
    """

    flip: bool = True
    crop: FractionAboveZero = 0.7
    colour: FractionBelowOne = 0.2


@settings
class Tuning(Distortion):
    """Which layers of the backbone are trained on: the last so many, or those behind one, by name.

    learning_rate is the backbone's first; all that is not said here is as in the training of the head.
    """

    layers: Count | None = None
    behind: Annotated[str | None, Field(alias="from", min_length=1)] = None
    learning_rate: Positive = 0.0003
    head_learning_rate: Positive = 0.0003
    epochs: Count = 10
    batch_size: Count = 32
    patience: Count | None = None

    def __post_init__(self) -> None:
        if (self.layers is None) == (self.behind is None):
            found = "both layers and from are" if self.layers else "neither layers nor from is"
            raise ValueError(f"{found} set, expected one: how many last layers, or the name of the layer before them")

    @property
    def part(self) -> str:
        """What is trained, in words."""
        if self.behind:
            return f"layers after {self.behind}"
        return "last layer" if self.layers == 1 else f"last {self.layers} layers"


@settings
class TunedRecipe(Recipe):
    """How the head is trained, and after it, where finetune is set, the backbone with it."""

    finetune: Tuning | None = None
