"""Where Beam runs: any runner, with any of Beam's options by name, checked by Beam's own parser before work begins."""

from __future__ import annotations

import argparse
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.errors import UserError

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.runners.runner import PipelineRunner

    from pipeline.config import BeamSettings, Config

# Needs no look at Beam: reading a config with these alone takes no four seconds to import it.
PLAIN = ("DirectRunner", "FnApiRunner")
# Such a job ends before its work is done or does none, and the next stage reads what this one wrote.
WITHOUT_RESULT = ("no_wait_until_finish", "template_location", "dry_run", "output_executable_path")
DATAFLOW_NEEDS = {
    "project": "the Google Cloud project that runs the workers",
    "region": "the region that they run in, such as us-central1",
    "temp_location": "a folder in a bucket, such as gs://bucket/tmp",
}


def check_runner(config: Config) -> None:
    """Raise UserError for an option of Beam that is none, or that the runner cannot do with, or for local paths."""
    if config.beam.runner in PLAIN and not config.beam.options:
        return
    make_options(config.beam, config.name)
    specs = [spec for specs in (config.backbone, *(config.curve.backbones or ())) for spec in specs]
    paths = (config.data.path,) if isinstance(config.data.path, str) else config.data.path or ()
    if not paths and is_dataflow(config.beam.runner):
        raise UserError(
            f"'data.source' is {config.data.source}, which is fetched to this machine, where Dataflow's workers cannot "
            f"read it: copy the images to a bucket and set data.path to the gs:// folder."
        )
    check_places(
        config.beam.runner,
        [
            *(("data.path", path) for path in paths),
            ("output_dir", config.output_dir or f"runs/{config.name}"),
            *(("backbone.bottlenecks", spec.bottlenecks) for spec in specs if spec.bottlenecks),
        ],
    )


def check_places(runner: str, places: Iterable[tuple[str, object]]) -> None:
    """Raise UserError for the first of some (name, path) that lies on this machine alone and the runner is Dataflow."""
    if not is_dataflow(runner):
        return
    for name, path in places:
        if not re.match(r"\w\w+:/", str(path)):
            raise UserError(
                f"'{name}' is '{path}', which lies on this machine, out of reach of Dataflow's workers: set it to "
                f"a gs:// path, or beam.runner to another."
            )


def is_dataflow(runner: str) -> bool:
    """Tell whether the name of a runner means Google Cloud Dataflow."""
    return runner.rpartition(".")[2].lower().removesuffix("runner") == "dataflow"


def make_options(beam: BeamSettings, *job: str) -> PipelineOptions:
    """Return Beam's options for a job named by its parts; raises UserError for the first thing wrong with them."""
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.options.pipeline_options_validator import PipelineOptionsValidator

    runner = find_runner(beam.runner)
    parser = open_parser()
    flags = [flag for key, value in beam.options.items() for flag in write_flags(key, value, parser)]
    try:
        parser.parse_args(flags)
    except (argparse.ArgumentError, ValueError) as error:
        raise UserError(f"Beam cannot read its options ({error}): mend the section 'beam'.") from error
    # Since Beam 2.68 the name DirectRunner first tries to download another runner's binary; this is the in-process one.
    name = "FnApiRunner" if beam.runner.lower() in ("direct", "directrunner") else beam.runner
    options = PipelineOptions(["--runner", name, *flags])
    given = options.get_all_options(drop_default=True)
    for key in WITHOUT_RESULT:
        if given.get(key):
            raise UserError(f"'beam.{key}' is set, but a stage reads what the one before it wrote: leave it out.")
    if is_dataflow(beam.runner):
        complete_dataflow(options, runner, "-".join(job))
    # Without the runner: with Dataflow's, Beam would ask Google Cloud about the bucket here already.
    errors = PipelineOptionsValidator(options, None).validate()
    if errors:
        raise UserError(f"Beam refuses its options ({errors[0].rstrip('.')}): mend the section 'beam'.")
    return options


def complete_dataflow(options: PipelineOptions, runner: PipelineRunner, job: str) -> None:
    """Set what Topgraft knows better than Beam's defaults; raises UserError where the user has to say more."""
    from apache_beam.options.pipeline_options import DebugOptions, GoogleCloudOptions, SetupOptions, WorkerOptions
    from apache_beam.options.pipeline_options_validator import PipelineOptionsValidator

    cloud, setup = options.view_as(GoogleCloudOptions), options.view_as(SetupOptions)
    debug, workers = options.view_as(DebugOptions), options.view_as(WorkerOptions)
    for key, meaning in DATAFLOW_NEEDS.items():
        if not getattr(cloud, key):
            raise UserError(f"'beam.{key}' is missing, which DataflowRunner needs: set it to {meaning}.")
    if not setup.setup_file and not workers.sdk_container_image:
        raise UserError(
            "'beam.sdk_container_image' is missing: set it to an image that configs/Dockerfile makes, "
            "with Topgraft in it, or set beam.setup_file to Topgraft's setup.py, from which each worker installs it."
        )
    if setup.setup_file and not (Path(setup.setup_file).name == "setup.py" and Path(setup.setup_file).is_file()):
        raise UserError(f"'beam.setup_file' is '{setup.setup_file}', which is no setup.py: set it to that of Topgraft.")
    # Nothing that a worker runs is defined in the main module.
    setup.save_main_session = bool(setup.save_main_session)
    cloud.job_name = cloud.job_name or name_job(job)
    # One process a worker, as TensorFlow takes all its processors: else each of them holds a model of its own.
    debug.experiments = debug.experiments or ["no_use_multiple_sdk_containers"]
    validator = PipelineOptionsValidator(options, runner)
    errors = [
        *validator.validate_gcs_path(cloud, "temp_location"),
        *(validator.validate_gcs_path(cloud, "staging_location") if cloud.staging_location else ()),
        *validator.validate_cloud_options(cloud),
        *validator.validate_num_workers(workers),
        *validator.validate_worker_region_zone(workers),
    ]
    if errors:
        raise UserError(f"Dataflow would refuse its options ({errors[0].rstrip('.')}): mend the section 'beam'.")


def name_job(text: str) -> str:
    """Return a job name that Dataflow takes: small letters, digits and dashes, the first one a letter."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return "-".join(["topgraft", *re.findall(r"[a-z0-9]+", plain)])


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
    except (ImportError, AttributeError) as error:
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
        # Of a pair such as use_public_ips and no_use_public_ips each sets the same.
        wanted = value if not named or action.const else not value
        switches = [other for other in parser._actions if other.dest == action.dest and other.const == wanted]
        return [switches[0].option_strings[0]] if switches else []
    option = f"--{key}" if named else action.option_strings[0]
    values = value if isinstance(value, (list, tuple)) else [value]
    return [f"{option}={json.dumps(item) if isinstance(item, Mapping) else item}" for item in values]
