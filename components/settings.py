"""Types and checks that the settings of all stages share; pydantic applies them when it reads a config."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, dataclass_transform

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field

from components.storage.places import as_path, expand_home

T = TypeVar("T")


def _read_place(value: Any) -> Any:
    return as_path(expand_home(value)) if isinstance(value, str) else value


# A path, local or in Google Cloud Storage.
Place = Annotated[Path, BeforeValidator(_read_place)]
# The same as a string, which may be a pattern.
PlaceText = Annotated[str, AfterValidator(expand_home)]

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
# From 0 to 1: with both ends, without 0, without 1, without both.
Fraction = Annotated[float, Field(ge=0, le=1)]
FractionAboveZero = Annotated[float, Field(gt=0, le=1)]
FractionBelowOne = Annotated[float, Field(ge=0, lt=1)]
FractionBetween = Annotated[float, Field(gt=0, lt=1)]


@dataclass_transform(frozen_default=True)
def settings(kind: type[T]) -> type[T]:
    """Make a class a frozen dataclass; a config may set only its fields, and all numbers must be finite.

    A method __post_init__ may raise ValueError. A property `inputs` lists the files on which the stage's result
    depends, if these are not the class's own paths.
    """
    kind.__pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)  # type: ignore[attr-defined]
    return dataclass(frozen=True)(kind)


def is_number(value: Any) -> bool:
    """Return whether a value is a finite int or float; bool is not a number."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer of 400 digits
        return False
