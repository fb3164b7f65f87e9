"""What every part of the configuration has in common."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict

from components.places import as_path


def _read_place(value: Any) -> Any:
    return as_path(value) if isinstance(value, str) else value


# A local path or one in Google Cloud Storage.
Place = Annotated[Path, BeforeValidator(_read_place)]


class Section(BaseModel):
    """A part of the configuration: unknown keys are errors, numbers are finite, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
