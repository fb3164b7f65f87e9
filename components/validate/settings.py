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

    split_skew and drift limit the largest difference between the fractions of a class, format or size in two splits,
    and in this run and the baseline. An allowance for chance is added.
    """

    split_skew: FractionAboveZero = 0.1
    schema_path: Annotated[Place | None, Field(alias="schema")] = None
    baseline: Place | None = None
    drift: FractionAboveZero = 0.1
    on_anomaly: Literal["stop", "warn"] = "stop"

    @property
    def inputs(self) -> list[Path]:
        """The files that the gate reads: the schema, and the statistics of the baseline."""
        baseline = self.baseline and RunDir(self.baseline).validation
        return [path for path in (self.schema_path, baseline) if path]
