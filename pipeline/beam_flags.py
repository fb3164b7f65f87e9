"""Beam's options by their names: keys of the section beam to flags and back, read by Beam's own parser."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from components.errors import UserError

if TYPE_CHECKING:
    from apache_beam.runners.runner import PipelineRunner


def find_runner(name: str) -> PipelineRunner:
    """Return the runner of a name, whose module brings options of its own; raises UserError naming the nearest."""
    from apache_beam.options.pipeline_options import StandardOptions
    from apache_beam.runners.runner import create_runner

    if name.rpartition(".")[2].lower().removesuffix("runner") == "dask":
        # Beam 2.72 computes dask_visitor.bags[-1] alone (dask_runner.py), and fails to translate TFDV's Flatten.
        raise UserError(
            f"'beam.runner' is '{name}', which runs the last branch of a pipeline alone and no other: set it "
            f"to another runner."
        )
    try:
        return create_runner(name)
    except ValueError as error:
        (nearest,) = get_close_matches(name, StandardOptions.KNOWN_RUNNER_NAMES, 1, 0)
        raise UserError(f"Beam has no runner '{name}'; did you mean '{nearest}'? Set 'beam.runner' to it.") from error
    except (ImportError, AttributeError, TypeError) as error:  # TypeError of '..Runner', a relative module
        raise UserError(
            f"Cannot load the runner '{name}' ({error}): install it, or set 'beam.runner' to another."
        ) from error


def open_parser() -> argparse.ArgumentParser:
    """Return Beam's parser of all options that it and the runners loaded so far know; it raises instead of leaving."""
    from apache_beam.options.pipeline_options import PipelineOptions

    parsers: list[argparse.ArgumentParser] = []
    PipelineOptions([]).get_all_options(add_extra_args_fn=parsers.append)
    parsers[0].exit_on_error = False
    return parsers[0]


def read_flags(flags: Sequence[str], runner: str) -> dict[str, Any]:
    """Return flags as keys of the section beam, which names a runner; raises UserError naming the nearest to an unknown
    one.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--runner", default=runner, nargs="?")
    find_runner(first.parse_known_args(flags)[0].runner or runner)
    parser = open_parser()
    for action in parser._actions:
        action.default = argparse.SUPPRESS
    try:
        given, unknown = parser.parse_known_args(flags)
    except (argparse.ArgumentError, ValueError) as error:
        raise UserError(f"Beam cannot read the flags behind '--' ({error}): mend them.") from error
    if unknown:
        found = unknown[0].partition("=")[0]
        if not found.startswith("--"):
            raise UserError(f"Cannot read '{found}' behind '--': expected Beam's flags, such as --num_workers=4.")
        nearest = get_close_matches(found, [f"--{name}" for name in list_names(parser)], 1, 0)
        raise UserError(f"Beam has no flag '{found}'; did you mean '{nearest[0]}'? Mend what stands behind '--'.")
    return vars(given)


def list_names(parser: argparse.ArgumentParser) -> list[str]:
    """Return the names of all options of a parser."""
    names = {option[2:] for action in parser._actions for option in action.option_strings if option.startswith("--")}
    return sorted(names - {"help"})


def write_flags(key: str, value: Any, parser: argparse.ArgumentParser) -> list[str]:
    """Return the flags that set one key of the section beam; raises UserError naming the nearest to an unknown key."""
    named = [action for action in parser._actions if f"--{key}" in action.option_strings]
    actions = named or [action for action in parser._actions if action.dest == key]
    if not actions or key == "help":
        (nearest,) = get_close_matches(key, ["runner", "shards", *list_names(parser)], 1, 0)
        raise UserError(f"Unknown key 'beam.{key}'; did you mean 'beam.{nearest}'? It takes any option of Beam.")
    if value is None:
        return []
    action = actions[0]
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise UserError(f"'beam.{key}' is {value!r}: expected true or false.")
        # use_public_ips and no_use_public_ips are two switches for one value.
        wanted = value if not named or action.const else not value
        switches = [other for other in parser._actions if other.dest == action.dest and other.const == wanted]
        return [switches[0].option_strings[0]] if switches else []
    option = f"--{key}" if named else action.option_strings[0]
    values = value if isinstance(value, (list, tuple)) else [value]
    return [f"{option}={json.dumps(item) if isinstance(item, Mapping) else item}" for item in values]
