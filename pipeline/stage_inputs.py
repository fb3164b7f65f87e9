"""The inputs of a stage: what identifies them, and how many images they have."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from components.data.image_list import Listing
from components.outcomes import Examples
from components.storage.files import fingerprint_file


def identify_input(value: Any, outcomes: Sequence[tuple[Any, list[str]]]) -> Any:
    """Return plain values that identify an input of a stage.

    outcomes has those of earlier stages, each with the name and the key of its stage, which identify it. Raises
    TypeError for a value of another kind.
    """
    for outcome, stage in outcomes:
        if outcome is value:
            return stage
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, Path):
        return fingerprint_file(value)
    if isinstance(value, Listing):
        return value.fingerprint()
    if isinstance(value, Mapping):
        return {str(key): identify_input(item, outcomes) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [identify_input(item, outcomes) for item in value]
    if is_dataclass(value):
        # Settings with `inputs` depend on those files; their other paths, such as a run directory, only name them.
        files = getattr(value, "inputs", None)
        parts = {field.name: getattr(value, field.name) for field in fields(value)}
        if files is not None:
            parts = {name: str(part) if isinstance(part, Path) else part for name, part in parts.items()}
        return [type(value).__name__, identify_input(parts, outcomes), identify_input(files, outcomes)]
    raise TypeError(f"A stage cannot depend on {type(value).__name__}.")


def count_images(stage: str, inputs: Sequence[Any]) -> int:
    """Return the number of images that a stage reads, from the listing or the examples among its inputs, else 0."""
    for data in inputs:
        if isinstance(data, Listing):
            return len(data.files)
        if isinstance(data, Examples):
            return data.splits["test"] if stage == "evaluate" else data.written
    return 0


def hash_parts(parts: list[Any]) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of plain values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
