"""Check that the output_dir is apart from all that a run reads and has no files of the user."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from components.backbones.spec import source_files
from components.data.image_list import Listing
from components.data.keys import name_roots
from components.errors import UserError
from components.run_dir import RunDir
from components.storage.ownership import MARK, OWN_PREFIX
from components.storage.places import as_path, describe_error, is_remote, storage_errors, walk_objects
from pipeline.yaml_text import InvalidYaml, parse_yaml

if TYPE_CHECKING:
    from pipeline.config import Config

# The folder of the default output_dir, which the listing leaves out below the data.
RUNS = "runs"


def check_output_dir(config: Config) -> None:
    """Raise UserError for an output_dir that is, contains or is inside a path that the run reads.

    It may be in runs/ below the folder of the images, if only run directories are there.
    """
    output = config.run_folder
    for key, place in _list_places(config):
        relation = _relate(output, place)
        if relation == "is inside" and key == "data.path" and _is_in_runs(output, place):
            _check_runs_folder(place / RUNS)
        elif relation:
            raise UserError(
                f"The output_dir '{output}' {relation} '{place}', which the run reads ({key}): set output_dir to a "
                f"folder apart from it, or to {RUNS}/<name> below the folder of the images."
            )


def exclude_runs(config: Config) -> list[str]:
    """Return the patterns that exclude runs/ from the listing of each image folder that contains the run there."""
    roots = config.data.roots
    # With a list of roots, keys begin with the name of the root.
    names = [""] if isinstance(config.data.path, str) else [f"{name}/" for name in name_roots(roots)] if roots else []
    return [
        f"{glob.escape(name)}{RUNS}"
        for root, name in zip(roots, names, strict=True)
        if _is_in_runs(config.run_folder, as_path(root))
    ]


def check_apart(listing: Listing, run: RunDir) -> None:
    """Raise UserError for a listed image in the run directory."""
    root = _real(run.root)
    folders = {file.path.rpartition("/")[0]: file for file in listing.files}
    for folder, file in folders.items():
        if _real(as_path(folder)).is_relative_to(root):
            raise UserError(
                f"The image '{file.path}' is in the output_dir '{run.root}': set output_dir to a folder apart from "
                f"the images."
            )


def check_same_data(config: Config) -> None:
    """Raise UserError if the run directory has a run over other data."""
    former = _read_former_data(RunDir(config.run_folder))
    now = config.data.roots[0]
    if former and (len(former) > 1 or _real(as_path(former[0])) != _real(as_path(now))):
        raise UserError(
            f"'{config.run_folder}' has the run over '{', '.join(former)}', not over '{now}': give the new run a name "
            f"of its own, such as name={config.name}-2."
        )


def _read_former_data(run: RunDir) -> list[str]:
    """Return the paths of the data of the run in a directory, or data.source=name; [] without a run."""
    for read in (
        lambda: json.loads(run.record.read_text(encoding="utf-8"))["config"],
        lambda: parse_yaml(run.config.read_text(encoding="utf-8")),  # the run was killed before its record was written
    ):
        with suppress(FileNotFoundError, NotADirectoryError, InvalidYaml, ValueError, KeyError, TypeError):
            data = read()["data"]
            path = data.get("path") or f"data.source={data['source']}"
            return [path] if isinstance(path, str) else [*path]
    return []


def is_run_dir(folder: Path) -> bool:
    """Return True for a folder with the marker file of a run directory."""
    return (folder / MARK).exists()


def check_own(folder: Path) -> None:
    """Raise UserError for an unreadable folder, and for a folder with files that is no run directory."""
    try:
        foreign = None if is_run_dir(folder) else _find_foreign(folder)
    except storage_errors() as error:
        raise UserError(
            f"Cannot write to '{folder}' ({describe_error(error)}): set output_dir to a writable folder."
        ) from error
    if foreign:
        raise UserError(
            f"The output_dir '{folder}' contains '{foreign}' and is no run directory of this version: set output_dir "
            f"to an empty or new folder."
        )


def _find_foreign(folder: Path) -> str | None:
    if is_remote(folder):
        return next((name for name, _ in walk_objects(folder) if not name.startswith(OWN_PREFIX)), None)
    try:
        return min((name for name in os.listdir(folder) if not name.startswith(OWN_PREFIX)), default=None)
    except FileNotFoundError:
        return None


def _list_places(config: Config) -> Iterator[tuple[str, Path]]:
    """Yield the config key and the path of everything that a run reads."""
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
    if other.is_relative_to(one):
        return "contains"
    return "is inside" if one.is_relative_to(other) else ""


def _is_in_runs(output: Path, root: Path) -> bool:
    runs = _real(root / RUNS)
    return runs == _real(root) / RUNS and runs in _real(output).parents


def _check_runs_folder(runs: Path) -> None:
    """Raise UserError if runs/ contains anything but run directories, such as the images of a class."""
    if is_remote(runs):
        names = {name.partition("/")[0] for name, _ in walk_objects(runs)}
    else:
        names = {*os.listdir(runs)} if runs.is_dir() else set()
    for name in sorted(names):
        if (
            not name.startswith(".")
            and not is_run_dir(runs / name)
            and (not (runs / name).is_dir() or _find_foreign(runs / name) is not None)
        ):
            raise UserError(
                f"'{runs}' contains '{name}', which no run of this version wrote, and the listing of images would "
                f"leave it out: set output_dir to a folder apart from the images."
            )


def _real(place: Path) -> PurePath:
    return PurePath(str(place) if is_remote(place) else os.path.realpath(place))
