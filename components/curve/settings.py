"""Settings of curve: the trainings to compare."""

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
    """The trainings of a curve: numbers of images per class, or fractions such as '60%', and draws for each.

    small_classes is for classes with too few images: leave them out, train on all images but one, or fail.
    """

    shots: Annotated[tuple[str, ...], BeforeValidator(_read_shots)] = ("15", "30")
    draws: Count = 5
    small_classes: Literal["leave_out", "shrink", "fail"] = "leave_out"
    max_test_per_class: Count = 50
