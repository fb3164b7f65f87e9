"""The place that a command is given: a config, or the images themselves, which stand for a config."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any
from unicodedata import category

from components.data.image_file import TFRECORD
from components.data.listing import ARCHIVES, EXPECTED, MANIFESTS
from components.errors import UserError
from components.storage.places import as_path, describe_error, is_remote, storage_errors
from pipeline.output_dir import is_run_dir


def is_config(place: Path) -> bool:
    """Return whether a place is a config, by its suffix; every other place is data."""
    return place.suffix.lower() in (".yaml", ".yml")


def describe_place(place: Path) -> dict[str, Any]:
    """Return the values of the config that data at a place stand for; raises UserError if no data can be there."""
    absolute = str(place).rstrip("/") if is_remote(place) else os.path.abspath(place)
    _check_place(as_path(absolute), str(place))
    return {"name": name_place(absolute), "data": {"path": absolute}, "preset": "balanced"}


def _check_place(place: Path, shown: str) -> None:
    try:
        exists, is_file, is_run = place.exists(), place.is_file(), is_run_dir(place)
        str(place).encode()
    except storage_errors() as error:
        raise UserError(f"Cannot read '{shown}' ({describe_error(error)}): check its permissions.") from error
    except UnicodeEncodeError as error:
        raise UserError(f"The path '{place}' is not Unicode, so no config can hold it: rename it.") from error
    if is_run:
        raise UserError(
            f"'{shown}' is a run directory: go on with its config, such as topgraft run {shown}/config.yaml, or "
            f"{EXPECTED}."
        )
    if TFRECORD in place.name:  # may be a pattern
        return
    expected = f"{EXPECTED}, or a config that ends in .yaml"
    if not exists:
        raise UserError(f"There is no '{shown}': {expected}.")
    if is_file and not place.name.lower().endswith((*MANIFESTS, *ARCHIVES)):  # the listing explains archives
        raise UserError(f"'{shown}' is a file, but neither a config nor a manifest: {expected}.")


def name_place(place: str) -> str:
    """Return the name of a folder, or of a file without suffix, with '_' for what a folder name should not contain."""
    name = os.path.basename(place)
    if name.lower().endswith(MANIFESTS):
        name = name.rpartition(".")[0]
    kept = [
        character if character.isalnum() or character in ".-" or category(character).startswith("M") else "_"
        for character in name.partition(TFRECORD)[0]
    ]
    plain = re.sub("_+", "_", "".join(kept)).strip("._-")
    above = os.path.dirname(place)
    return plain or (name_place(above) if above not in ("", place) else "images")
