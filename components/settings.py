"""What the settings of all stages have in common: frozen records, checked by pydantic where a config is read."""

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


# A local path or one in Google Cloud Storage.
Place = Annotated[Path, BeforeValidator(_read_place)]
# The same as text, which may be a pattern.
PlaceText = Annotated[str, AfterValidator(expand_home)]

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
# Within 0 and 1, with both, without 0, without 1, and without either.
Fraction = Annotated[float, Field(ge=0, le=1)]
FractionAboveZero = Annotated[float, Field(gt=0, le=1)]
FractionBelowOne = Annotated[float, Field(ge=0, lt=1)]
FractionBetween = Annotated[float, Field(gt=0, lt=1)]

FORBID = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass_transform(frozen_default=True)
def settings(kind: type[T]) -> type[T]:
    """Make a class a frozen dataclass of which a config knows every key: others are errors, numbers are finite.

    A method __post_init__ may raise ValueError. A property `inputs` names the files that decide a stage's result beside
    the values, where these are not the class's own paths.
    """
    kind.__pydantic_config__ = FORBID  # type: ignore[attr-defined]
    return dataclass(frozen=True)(kind)


def is_number(value: Any) -> bool:
    """Tell whether a value is a finite number."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer of 400 digits
        return False
