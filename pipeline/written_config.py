"""Write the config that data stand for, commented, to go on from; never over a file or an edit of the user."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from components.errors import UserError
from components.run_dir import RunDir
from components.storage.files import write_text
from components.storage.ownership import claim_files, read_mark, write_mark
from components.storage.places import describe_error, remove_file, storage_errors
from pipeline.config import SECRET
from pipeline.data_place import is_config
from pipeline.load_config import read_values
from pipeline.yaml_text import dump_key

HEADER = """\
# The config of a run, for:   topgraft run <this file>
# Change what you like. A key behind '#' is not set: to set it, remove the '#' before it and before its section.
# docs/own_data.md, docs/backbones.md and docs/training.md describe all keys."""
# Keys with an example and what it means; those that the config does not set stand in it as comments.
EXAMPLES = {
    "name": ("photos", "the run directory is runs/ and this name"),
    "data.exclude": ('["drafts", "*.gif"]', "files and folders to leave out"),
    "data.group_pattern": ('"patient_([0-9]+)"', "images of one group stay in one split"),
    "data.split": ("{train: 0.6, val: 0.2, test: 0.2}", "the defaults"),
    "preset": ("balanced", "fast, balanced or best; the keys below win over it"),
    "backbone": ("efficientnet_lite2", "topgraft backbones list shows all"),
    "augment.flip": ("true", "train on mirrored images too"),
    "train.epochs": ("80", "the default is about 300 steps"),
    "train.class_weight": ("balanced", "where some classes have few images"),
    "abstain.precision": ("0.95", "of the answers; the model leaves uncertain images unanswered"),
    "evaluate.thresholds": ("{accuracy: 0.90}", "the limit that the test split must reach"),
    "seed": ("0", "another one makes another split"),
}
SIGNATURE = "# Checksum of the lines above, so that topgraft replaces this file only while nobody has changed it: "


def format_config(values: Mapping[str, Any]) -> str:
    """Return the values of a config as commented YAML, without Beam's credentials."""
    beam = values.get("beam")
    if isinstance(beam, dict):
        values = {**values, "beam": {key: value for key, value in beam.items() if not SECRET.search(key)}}
    lines = [HEADER]
    for section in dict.fromkeys([*(key.partition(".")[0] for key in EXAMPLES), *values]):
        value = values.get(section)
        inner = [key for key in EXAMPLES if key.startswith(f"{section}.")]
        if isinstance(value, dict) and value:
            lines += [f"{section}:", *(f"  {dump_key(key, part)}" for key, part in value.items())]
            lines += [_show_example("  #", key) for key in inner if key.partition(".")[2] not in value]
        elif section in values:
            lines.append(_comment(dump_key(section, value), EXAMPLES.get(section, ("", ""))[1]))
        elif section in EXAMPLES:
            lines.append(_show_example("#", section))
        else:
            lines += [f"#{section}:", *(_show_example("#  ", key) for key in inner)]
    return "\n".join([*lines, ""])


def _show_example(start: str, key: str) -> str:
    example, meaning = EXAMPLES[key]
    return _comment(f"{start}{key.rpartition('.')[2]}: {example}", meaning)


def _comment(text: str, meaning: str) -> str:
    return f"{text:<44}  # {meaning}" if meaning else text


@contextmanager
def keep_config(run: RunDir, place: Path, overrides: list[str], flags: Sequence[str] = ()) -> Iterator[None]:
    """Write the config that data at a place stand for into a locked run directory; no config for a config.

    An exception in the block, before the first stage, removes a new one. Raises UserError for a file of the user, and
    for one that the user has edited.
    """
    if is_config(place):
        yield
        return
    text = _sign(format_config(read_values(place, overrides, flags)))
    claim_files(run.root, [run.config.name])
    former = None
    try:
        former = run.config.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        pass
    except storage_errors() as error:
        raise UserError(f"Cannot read '{run.config}' ({describe_error(error)}): move it away.") from error
    if former is not None and former != _sign(former.rpartition(SIGNATURE)[0]):
        raise UserError(
            f"'{run.config}' has been edited and stays as it is: go on with topgraft run {run.config}, or remove the "
            f"file to start from '{place}' alone."
        )
    if former != text:
        write_text(run.config, text)
    try:
        yield
    except BaseException:
        if former is None and run.config.exists() and not run.stages.exists():
            remove_file(run.config)
            write_mark(run.root, read_mark(run.root) - {run.config.name})
        raise


def _sign(text: str) -> str:
    return f"{text}{SIGNATURE}{hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()[:16]}\n"


def write_new_config(name: str, values: Mapping[str, Any]) -> Path:
    """Write the config of data into the current folder and return its path; raises UserError if the file exists."""
    path = Path(f"{name}.yaml")
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(format_config(values))
    except FileExistsError as error:
        raise UserError(
            f"'{path}' exists and stays as it is: go on with topgraft run {path}, or set another name, such as "
            f"name={name}-2."
        ) from error
    return path
