"""What every part of the configuration has in common."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict

from components.storage.places import as_path, expand_home


def _read_place(value: Any) -> Any:
    return as_path(expand_home(value)) if isinstance(value, str) else value


# A local path or one in Google Cloud Storage.
Place = Annotated[Path, BeforeValidator(_read_place)]
# The same as text, which may be a pattern.
PlaceText = Annotated[str, AfterValidator(expand_home)]


class Section(BaseModel):
    """A part of the configuration: unknown keys are errors, numbers are finite, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
