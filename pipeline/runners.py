"""Where Beam runs: any of its runners, with what Topgraft knows better for Dataflow, checked before work begins."""

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
from components.storage.places import is_remote

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
        if not is_remote(str(path)):
            raise UserError(
                f"'{name}' is '{path}', which lies on this machine, out of reach of Dataflow's workers: set it to "
                f"a gs:// path, or beam.runner to another."
            )


def is_dataflow(runner: str) -> bool:
    """Tell whether the name of a runner means Google Cloud Dataflow."""
    return runner.rpartition(".")[2].lower().removesuffix("runner") == "dataflow"


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


def read_flags(flags: Sequence[str], runner: str) -> dict[str, Any]:
    """Return Beam's flags as keys of the section beam, which names a runner; raises UserError for a wrong flag."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--runner", default=runner, nargs="?")
    find_runner(first.parse_known_args(flags)[0].runner or runner)
    return parse_flags(flags, "--")


def parse_flags(flags: Sequence[str], prefix: str) -> dict[str, Any]:
    """Return the options that flags set, by name; raises UserError for a wrong one, named with the prefix that the user
    writes before it.
    """
    from apache_beam.options.pipeline_options import PipelineOptions

    parsers: list[argparse.ArgumentParser] = []
    unset = dict.fromkeys(PipelineOptions([]).get_all_options(add_extra_args_fn=parsers.append))
    parsers[0].exit_on_error = False
    try:
        given, unknown = parsers[0].parse_known_args(flags, argparse.Namespace(**unset))
    except (argparse.ArgumentError, ValueError) as error:
        raise UserError(f"Beam cannot read its options ({error}): correct them in section 'beam' or flags.") from error
    if unknown:
        name = unknown[0].partition("=")[0].removeprefix("--")
        known = [*re.findall(r"--(\w+)", parsers[0].format_help()), *(["shards"] if prefix == "beam." else [])]
        (nearest,) = get_close_matches(name, known, 1, 0)
        found, meant = prefix + name, prefix + nearest
        raise UserError(f"Beam has no option '{found}'; did you mean '{meant}'? Correct it in section 'beam' or flags.")
    return {key: value for key, value in vars(given).items() if value is not None}


def write_flags(options: Mapping[str, Any]) -> list[str]:
    """Return the flags that set options by name."""
    return [
        f"--{key}"
        if value is True and key != "help"
        else f"--{key}={json.dumps(item) if isinstance(item, dict) else item}"
        for key, value in options.items()
        for item in (value if isinstance(value, list) else [value])
    ]


def make_options(beam: BeamSettings, *job: str) -> PipelineOptions:
    """Return Beam's options for a job named by its parts; raises UserError for the first thing wrong with them."""
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.options.pipeline_options_validator import PipelineOptionsValidator

    runner = find_runner(beam.runner)
    given = {key: value for key, value in beam.options.items() if value is not None}
    # For these there may be no flag, and PipelineOptions.from_dictionary would leave most of them out.
    defaults = PipelineOptions([]).get_all_options()
    switches = {k: v for k, v in given.items() if k in defaults and (v is False or v is defaults[k])}
    flags = write_flags({key: value for key, value in given.items() if key not in switches})
    parse_flags(flags, "beam.")
    # Since Beam 2.68 the name DirectRunner first tries to download another runner's binary; this is the in-process one.
    name = "FnApiRunner" if beam.runner.lower() in ("direct", "directrunner") else beam.runner
    options = PipelineOptions(["--runner", name, *flags], **switches)
    found = options.get_all_options(drop_default=True)
    for key in WITHOUT_RESULT:
        if found.get(key):
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
