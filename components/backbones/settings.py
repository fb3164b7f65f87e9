"""Settings of the views per image, which extraction and the served model share."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from components.settings import FractionBetween, settings


@settings
class Augment:
    """The views of each image besides the whole: mirrored, and crops with the fraction crop_side of its sides.

    With average the model takes the mean of all views, otherwise the whole image.
    """

    flip: bool = False
    crops: Annotated[int, Field(ge=0, le=5)] = 0
    crop_side: FractionBetween = 0.8
    average: bool = False

    @property
    def name(self) -> str:
        """The views as part of a folder's name, '' without any."""
        crops = f"crops{self.crops}x{self.crop_side:g}" if self.crops else ""
        return "-".join(part for part in ("flip" if self.flip else "", crops) if part)
