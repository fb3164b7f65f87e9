"""Settings of audit: which images look alike, and how many are compared."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from components.settings import FractionAboveZero, settings


@settings
class AuditLimits:
    """From which cosine on two bottlenecks are those of near-duplicates; a sample of max_images stands for more."""

    near_duplicate: FractionAboveZero = 0.92
    max_images: Annotated[int, Field(ge=1000)] = 100_000
