"""Read a config from YAML or from data, overrides and Beam's flags, and check it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args, get_type_hints

from pydantic import BaseModel, ValidationError

from components.errors import UserError
from components.storage.places import describe_error, storage_errors
from pipeline.config import BeamSettings, Config
from pipeline.data_place import describe_place, is_config
from pipeline.output_dir import check_output_dir, check_same_data
from pipeline.runners import check_runner, place_config, read_flags
from pipeline.yaml_text import InvalidYaml, parse_yaml

# A value with a comment, an alias or a tag in YAML, as in output_dir="birds #2" and data.path="*.tfrecord", which on a
# command line is plain text.
PLAIN_TEXT = re.compile(r"""\s*(?![\s"'\[{&!|>]).*(?<!\S)#|\s*[*%@`]""", re.DOTALL)


def load_config(path: Path, overrides: list[str], flags: Sequence[str] = ()) -> Config:
    """Return the config of a YAML file, or of the data at another path, with overrides and flags; raises UserError.

    Overrides are key=value with dotted keys, flags are Beam's.
    """
    config = _make_config(
        read_values(path, overrides, flags), f"config '{path}'" if is_config(path) else "command line"
    )
    check_runner(config)
    config = place_config(config)
    check_output_dir(config)
    if not is_config(path):
        check_same_data(config)
    return config


def read_values(path: Path, overrides: Sequence[str], flags: Sequence[str]) -> dict[str, Any]:
    """Return the values of a config, or of the one that data at a path stand for, with overrides and Beam's flags.

    Raises UserError for an unreadable config, for a path without data, and for an override that cannot be set or that
    names other data.
    """
    if is_config(path):
        return _apply(_read_yaml(path), overrides, flags)
    described = describe_place(path)
    place = described["data"]["path"]
    values = _apply(described, overrides, flags)
    data = values["data"]
    if isinstance(data, dict) and data.get("path") != place:
        raise UserError(
            f"'{path}' and data.path={data.get('path')} name two places of data: give one of them, or a config with "
            f"data.path as a list of both."
        )
    return values


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = parse_yaml(path.read_text(encoding="utf-8"))
    except storage_errors() as error:
        raise UserError(
            f"Cannot read the config '{path}' ({describe_error(error)}): give the path of a YAML file."
        ) from error
    except (InvalidYaml, UnicodeDecodeError) as error:
        raise UserError(f"The config '{path}' is not valid YAML ({error}): correct it there.") from error
    if not isinstance(values, dict):
        raise UserError(
            f"The config '{path}' has no keys: expected at least 'name' and 'data', see configs/digits.yaml."
        )
    return values


def load_beam(overrides: Sequence[str], flags: Sequence[str] = ()) -> BeamSettings:
    """Return the Beam settings of key=value overrides and flags, for a command without config; raises UserError."""
    required = {"name": "beam", "data": {"path": "."}}
    return _make_config(_apply(required, [f"beam.{override}" for override in overrides], flags), "option --beam").beam


def _apply(values: dict[str, Any], overrides: Sequence[str], flags: Sequence[str]) -> dict[str, Any]:
    for override in overrides:
        _apply_override(values, override)
    beam = values.get("beam") or {}
    if flags and isinstance(beam, dict):
        values["beam"] = {**beam, **read_flags(flags, str(beam.get("runner", BeamSettings().runner)))}
    return values


def _make_config(values: dict[str, Any], origin: str) -> Config:
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{_describe(error)} ({origin}).") from error


def _apply_override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(f"Cannot read '{override}': expected key=value, such as train.epochs=20.")
    *parents, last = key.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise UserError(f"Cannot set '{key}': '{parent}' is a single value, not a section.")
    try:
        values[last] = text.strip() if PLAIN_TEXT.match(text) else parse_yaml(text)
    except InvalidYaml as error:
        raise UserError(
            f"Cannot read the value of '{override}' ({error}): expected a YAML value, such as {key}=20."
        ) from error


def _describe(error: ValidationError) -> str:
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    key = ".".join(path)
    if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        known = _keys_of(Config, path[:-1])
        nearest = get_close_matches(path[-1], known, 1, 0)
        meant = ".".join([*path[:-1], *nearest])
        return f"Unknown key '{key}'; did you mean '{meant}'? Known keys here are {', '.join(known)}"
    if first["type"] == "missing":
        return f"The key '{key}' is missing: set it"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "string_type" and not isinstance(first["input"], (dict, list)):
        message = "expected text, put it in quotes"  # such as a class or folder named 2024
    text = repr(first["input"])
    found = "" if isinstance(first["input"], dict) else f" is {text if len(text) <= 200 else text[:200] + '...'}"
    return f"'{key}'{found}: {message[0].lower()}{message[1:]}" if key else message


def _keys_of(section: Any, path: list[str]) -> list[str]:
    keys = _hints(section)
    if not path:
        return list(keys)
    # The section may be inside Optional[...] or tuple[..., ...]; for a tuple the path also has the position.
    (inner,) = _sections_in(keys[path[0]])
    return _keys_of(inner, path[2:] if path[1:] and path[1].isdecimal() else path[1:])


def _hints(section: Any) -> dict[str, Any]:
    """Return the types of a section's keys by the name in a config."""
    keys = {}
    for name, hint in get_type_hints(section, include_extras=True).items():
        if name in getattr(section, "__dataclass_fields__", {}) or name in getattr(section, "model_fields", {}):
            aliases = [part.alias for part in getattr(hint, "__metadata__", ()) if getattr(part, "alias", None)]
            keys[aliases[0] if aliases else name] = hint
    return keys


def _sections_in(hint: Any) -> list[Any]:
    if isinstance(hint, type) and (is_dataclass(hint) or issubclass(hint, BaseModel)):
        return [hint]
    return [section for part in get_args(hint) for section in _sections_in(part)]
