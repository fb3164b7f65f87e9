"""What `topgraft serve` serves: one version of an export, with the name and version that its addresses bear."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import NamedTuple

from components.errors import UserError
from components.export.export import list_versions
from components.predict.predict import Classifier, load_export
from components.run_dir import RunDir
from components.serve.tf_serving import read_metadata


class ServedExport(NamedTuple):
    """A loaded export, the name and version of its addresses, and its metadata as TensorFlow Serving words it."""

    name: str
    version: str
    folder: Path
    classifier: Classifier
    metadata: dict


def load_served(folder: Path, name: str | None) -> ServedExport:
    """Load a version folder, or the newest version in a folder; raises UserError where there is none."""
    export = find_version(folder)
    name = name or name_model(export)
    if not re.fullmatch(r"[^/:\s]+", name):
        raise UserError(f"'{name}' cannot be part of an address: give a --name without '/', ':' and spaces.")
    version = export.name if export.name.isdecimal() else "1"
    return ServedExport(name, version, export, load_export(export), read_metadata(export, name, version))


def find_version(folder: Path) -> Path:
    """Return the version folder that is meant: the folder itself, or the newest version in it; raises UserError."""
    folder = folder.resolve()
    if (folder / "saved_model.pb").exists():
        return folder
    versions = list_versions(folder)
    if not versions:
        raise UserError(f"'{folder}' holds no export: give runs/<name>/export or a version folder in it.")
    return versions[-1]


def name_model(export: Path) -> str:
    """Return the name of the run that an export lies in; without its record, that of the folder of the versions."""
    exports = export.parent
    try:
        record = json.loads(RunDir(exports.parent).record.read_text(encoding="utf-8"))
        return str(record["config"]["name"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return exports.parent.name if exports.name == RunDir(exports).exports.name else exports.name
