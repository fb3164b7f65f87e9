"""Settings of evaluate: the model gate."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from pydantic import Field

from components.settings import Fraction, settings


@settings
class Thresholds:
    """What the test split must reach for the blessing: loss at most, all else at least.

    The recalls are those of the classes that have a test image: their mean, and the least of them.
    """

    accuracy: Fraction | None = None
    top5: Fraction | None = None
    loss: Annotated[float, Field(ge=0)] | None = None
    mean_class_accuracy: Fraction | None = None
    min_class_recall: Fraction | None = None

    @property
    def given(self) -> dict[str, float]:
        """The thresholds that are set, by metric."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@settings
class ModelGate:
    """The model gate; without any limit there is no gate.

    max_accuracy_drop is how far accuracy may fall behind the last blessed model of the same backbone and classes.
    """

    thresholds: Thresholds = Thresholds()
    max_accuracy_drop: Fraction | None = None

    @property
    def is_set(self) -> bool:
        """Whether there is any limit."""
        return self != ModelGate()
