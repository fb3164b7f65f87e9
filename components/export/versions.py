"""The versions of an exported model: find one, check it, and read its facts; without TensorFlow."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from components.errors import DamagedFile, UserError
from components.features import EVIDENCE
from components.run_dir import BLESSED, MODEL_CARD, RunDir
from components.storage.checksums import find_mismatch
from components.storage.files import read_json
from components.terminal.text import printable

# A folder with this file is a SavedModel.
SAVED_MODEL = "saved_model.pb"
# Keys of a model card that the export writes; the report adds others.
FACTS = ("backbone", "classes", "images", "validation", "abstention")
OLD_EXPORT = "The evidence at each place is not known, as an earlier version of Topgraft exported this model."


def read_facts(export: Path) -> dict[str, Any]:
    """Return the FACTS of an export's model card, and its sentence on evidence; raises DamagedFile without these."""
    card = export / MODEL_CARD
    try:
        values = read_json(card, *FACTS)
    except FileNotFoundError as error:
        raise DamagedFile(str(card)) from error
    return {name: values[name] for name in FACTS} | {EVIDENCE: values.get(EVIDENCE, OLD_EXPORT)}


def read_note(export: Path) -> str:
    """Return the sentence of an export's model card on evidence; a card that is missing or damaged has none."""
    try:
        return str(read_facts(export)[EVIDENCE])
    except DamagedFile:
        return OLD_EXPORT


def list_versions(exports: Path) -> list[Path]:
    """Return the complete exports, oldest first."""
    folders = [file.parent for file in exports.glob(f"*/{SAVED_MODEL}") if file.parent.name.isdecimal()]
    return sorted(folders, key=lambda folder: int(folder.name))


def find_export(place: Path) -> Path:
    """Return the version folder that is meant: place itself, or the newest blessed version of a run or export folder.

    Without a blessed version the newest is meant. A line on stderr says so where the newest version is not blessed.
    Raises UserError where there is no version.
    """
    if (place / SAVED_MODEL).exists():
        return place
    versions = list_versions(RunDir(place).exports) or list_versions(place)
    if not versions:
        found = "holds no exported model" if place.exists() else "does not exist"
        raise UserError(
            f"'{place}' {found}: give the directory of a finished run, such as runs/digits, its folder export, or a "
            f"version folder in that."
        )
    newest = versions[-1]
    blessed = [version for version in versions if (version / BLESSED).exists()]
    if newest not in blessed:
        found = f"version {newest.name} is not blessed" if blessed else "no version is blessed"
        taken = f"{blessed[-1].name}, the newest blessed one" if blessed else f"{newest.name}, the newest"
        print(printable(f"topgraft: in '{newest.parent}' {found}: {taken}, is taken."), file=sys.stderr)
    return [newest, *blessed][-1]


def check_export(export: Path) -> None:
    """Raise UserError for an exported SavedModel that has changed since it was written."""
    unlike = find_mismatch(export)
    if unlike:
        raise UserError(
            f"The SavedModel '{export}' is damaged ('{unlike}' is not as it was written): run its config again, which "
            f"exports it anew, or give another version."
        )
