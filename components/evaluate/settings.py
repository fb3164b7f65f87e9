"""Settings of evaluate: the model gate."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from pydantic import Field

from components.settings import Fraction, settings


@settings
class Thresholds:
    """Limits of the model gate on the test split: an upper limit for loss, lower limits for all other metrics.

    mean_class_accuracy and min_class_recall are mean and minimum of the recall over classes with a test image.
    """

    accuracy: Fraction | None = None
    top5: Fraction | None = None
    loss: Annotated[float, Field(ge=0)] | None = None
    mean_class_accuracy: Fraction | None = None
    min_class_recall: Fraction | None = None

    @property
    def given(self) -> dict[str, float]:
        """The thresholds that the config sets, by metric."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@settings
class ModelGate:
    """The model gate, which is off without any limit.

    max_accuracy_drop is the allowed drop of accuracy against the last blessed model of the same backbone and classes.
    max_newly_wrong is the allowed fraction of the test images shared with the last blessed model, of any backbone, that
    it answered right and the new model answers wrong.
    """

    thresholds: Thresholds = Thresholds()
    max_accuracy_drop: Fraction | None = None
    max_newly_wrong: Fraction | None = None

    @property
    def is_set(self) -> bool:
        """True if the config sets any limit."""
        return self != ModelGate()
