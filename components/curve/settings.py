"""Settings of curve: which trainings it is made of."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from components.settings import Count, settings


def _read_shots(value: Any) -> tuple[str, ...]:
    shots = [str(part).strip() for part in (value if isinstance(value, list | tuple) else str(value).split(","))]
    for text in shots:
        number = text[:-1] if text.endswith("%") else text
        if not number.isdecimal() or int(number) < 1 or (text.endswith("%") and int(number) > 99):
            raise ValueError(f"found '{text}', expected numbers of images such as 15,30 or fractions such as 60%")
    return tuple(shots)


@settings
class CurvePlan:
    """Which trainings a curve is made of: images of each class, as numbers or fractions such as '60%', and draws.

    small_classes says what becomes of a class with too few images: it is left out, trains on all but one, or fails.
    """

    shots: Annotated[tuple[str, ...], BeforeValidator(_read_shots)] = ("15", "30")
    draws: Count = 5
    small_classes: Literal["leave_out", "shrink", "fail"] = "leave_out"
    max_test_per_class: Count = 50
