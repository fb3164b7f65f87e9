"""Settings of finetune: the trained layers of the backbone, and the distortion of images."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from components.settings import Count, FractionAboveZero, FractionBelowOne, Positive, settings
from components.train.settings import Recipe


@settings
class Distortion:
    """Random changes of each image in each epoch.

    flip mirrors every other image, crop is the smallest fraction of the area that is kept, and colour the largest
    relative change of brightness, contrast and saturation.
    """

    flip: bool = True
    crop: FractionAboveZero = 0.7
    colour: FractionBelowOne = 0.2


@settings
class Tuning(Distortion):
    """The trained layers of the backbone, by their number from the end or the name of the layer before them.

    learning_rate is the backbone's first; the other settings are those of the head's training.
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
            raise ValueError(f"{found} set, expected one: a number of last layers or the name of the layer before them")

    @property
    def part(self) -> str:
        """The trained layers in words."""
        if self.behind:
            return f"layers after {self.behind}"
        return "last layer" if self.layers == 1 else f"last {self.layers} layers"


@settings
class TunedRecipe(Recipe):
    """The training of the head and, where finetune is set, the fine-tuning after it."""

    finetune: Tuning | None = None
