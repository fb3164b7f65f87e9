"""Settings of validate: the limits of the data gate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from components.run_dir import RunDir
from components.settings import FractionAboveZero, Place, settings


@settings
class Gate:
    """Limits of the data gate.

    split_skew and drift are how far the distributions of classes, formats and sizes may differ between two splits and
    from those of the run at baseline (the largest difference of a fraction), chance allowed for.
    """

    split_skew: FractionAboveZero = 0.1
    schema_path: Annotated[Place | None, Field(alias="schema")] = None
    baseline: Place | None = None
    drift: FractionAboveZero = 0.1
    on_anomaly: Literal["stop", "warn"] = "stop"

    @property
    def inputs(self) -> list[Path]:
        """The schema, and the statistics of the run to compare with."""
        baseline = self.baseline and RunDir(self.baseline).validation
        return [path for path in (self.schema_path, baseline) if path]
