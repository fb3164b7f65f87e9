"""Settings of audit: the similarity of near-duplicates, and the number of images compared."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from components.settings import FractionAboveZero, settings


@settings
class AuditLimits:
    """The cosine from which two images are near-duplicates, and the number of images above which a sample is drawn."""

    near_duplicate: FractionAboveZero = 0.92
    max_images: Annotated[int, Field(ge=1000)] = 100_000
