"""Where a run may write: a folder apart from all that it reads, which holds nothing that no run wrote."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from components.backbones.spec import source_files
from components.data.image_file import Listing
from components.data.keys import name_roots
from components.errors import UserError
from components.run_dir import RunDir
from components.storage.ownership import MARK, OWN_PREFIX
from components.storage.places import as_path, describe_error, is_remote, storage_errors, walk_objects

if TYPE_CHECKING:
    from pipeline.config import Config

# The folder of the default output_dir: below the data it is left out of the listing.
RUNS = "runs"


def check_output_dir(config: Config) -> None:
    """Raise UserError for an output_dir that is, contains or lies inside a place that the run reads.

    It may lie in runs/ below the folder of the images, where that holds nothing but run directories.
    """
    output = config.run_folder
    for key, place in _list_places(config):
        relation = _relate(output, place)
        if relation == "lies inside" and key == "data.path" and _lies_in_runs(output, place):
            _check_runs_folder(place / RUNS)
        elif relation:
            raise UserError(
                f"The output_dir '{output}' {relation} '{place}', which the run reads ({key}): set output_dir to a "
                f"folder apart from it, or to {RUNS}/<name> below the folder of the images."
            )


def exclude_runs(config: Config) -> list[str]:
    """Return the patterns by which the listing leaves out runs/ below the folders of the images, where the run lies."""
    roots = config.data.roots
    # Of a list of roots, each one's name begins its keys.
    names = [""] if isinstance(config.data.path, str) else [f"{name}/" for name in name_roots(roots)] if roots else []
    return [
        f"{glob.escape(name)}{RUNS}"
        for root, name in zip(roots, names, strict=True)
        if _lies_in_runs(config.run_folder, as_path(root))
    ]


def check_apart(listing: Listing, run: RunDir) -> None:
    """Raise UserError where a listed image lies in the run directory."""
    root = _real(run.root)
    folders = {file.path.rpartition("/")[0]: file for file in listing.files}
    for folder, file in folders.items():
        if _is_below(_real(as_path(folder)), root):
            raise UserError(
                f"The image '{file.path}' lies in the output_dir '{run.root}': set output_dir to a folder apart from "
                f"the images."
            )


def is_run(folder: Path) -> bool:
    """Tell whether a folder bears the mark of a run directory."""
    return (folder / MARK).exists()


def check_own(folder: Path) -> None:
    """Raise UserError for a folder that is no run directory and not empty, and for one that cannot be read."""
    try:
        stranger = None if is_run(folder) else _find_stranger(folder)
    except storage_errors() as error:
        raise UserError(
            f"Cannot write to '{folder}' ({describe_error(error)}): set output_dir to a folder that can be written."
        ) from error
    if stranger:
        raise UserError(
            f"The output_dir '{folder}' holds '{stranger}' and is not the folder of a run of this version: set "
            f"output_dir to an empty or a new folder."
        )


def _find_stranger(folder: Path) -> str | None:
    if is_remote(folder):
        return next((name for name, _ in walk_objects(folder) if not name.startswith(OWN_PREFIX)), None)
    try:
        return min((name for name in os.listdir(folder) if not name.startswith(OWN_PREFIX)), default=None)
    except FileNotFoundError:
        return None


def _list_places(config: Config) -> Iterator[tuple[str, Path]]:
    """Yield the key of each place that a run reads, and the place."""
    for root in config.data.roots:
        yield "data.path", as_path(root)
    specs = [spec for specs in (config.backbone, *config.curve.backbones) for spec in specs]
    others: Sequence[tuple[str, str | Path | None]] = [
        ("data.labels", config.data.labels),
        ("validation.schema", config.validation.schema_path),
        ("validation.baseline", config.validation.baseline),
        ("train.warm_start", config.train.warm_start),
        *(("backbone", file) for file in source_files(tuple(specs))),
    ]
    for key, place in others:
        if place:
            yield key, as_path(place)


def _relate(output: Path, place: Path) -> str:
    one, other = _real(output), _real(place)
    if one == other:
        return "is"
    if _is_below(other, one):
        return "contains"
    return "lies inside" if _is_below(one, other) else ""


def _lies_in_runs(output: Path, root: Path) -> bool:
    runs = _real(root / RUNS)
    return runs == f"{_real(root)}/{RUNS}" and _is_below(_real(output), runs) and _real(output) != runs


def _check_runs_folder(runs: Path) -> None:
    """Raise UserError where runs/ holds anything but run directories, such as the images of a class."""
    if is_remote(runs):
        names = {name.partition("/")[0] for name, _ in walk_objects(runs)}
    else:
        names = {*os.listdir(runs)} if runs.is_dir() else set()
    for name in sorted(names):
        if not name.startswith(".") and not is_run(runs / name) and _holds_any(runs / name):
            raise UserError(
                f"'{runs}' holds '{name}', which no run of this version wrote and which would be left out of the "
                f"images with it: set output_dir to a folder apart from the images."
            )


def _holds_any(place: Path) -> bool:
    return not place.is_dir() or _find_stranger(place) is not None


def _real(place: Path) -> str:
    return str(place).rstrip("/") if is_remote(place) else os.path.realpath(place)


def _is_below(place: str, folder: str) -> bool:
    return place == folder or place.startswith(f"{folder.rstrip('/')}/")
