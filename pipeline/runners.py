"""Make and check the options of Beam's runners, with better defaults for Dataflow, before work begins."""

from __future__ import annotations

import argparse
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.errors import UserError
from components.storage.places import as_path, is_remote
from pipeline.clusters.checks import find_cluster, name_engine
from pipeline.clusters.java_options import add_java_options

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.runners.runner import PipelineRunner

    from pipeline.config import BeamSettings, Config

# A config with only one of these is valid without a check by Beam, whose import takes four seconds.
LOCAL_RUNNERS = ("DirectRunner", "FnApiRunner")
# Such a job ends without results, which the next stage would read.
WITHOUT_RESULT = ("no_wait_until_finish", "template_location", "dry_run", "output_executable_path")
DATAFLOW_NEEDS = {
    "project": "the Google Cloud project that runs the workers",
    "region": "the region that they run in, such as us-central1",
    "temp_location": "a folder in a bucket, such as gs://bucket/tmp",
}


def check_runner(config: Config) -> None:
    """Raise UserError for an unknown Beam option, one that the runner rejects, or a local path with Dataflow."""
    if config.beam.runner in LOCAL_RUNNERS and not config.beam.options:
        return
    make_options(config.beam, config.name)
    find_cluster(config.beam)
    if not config.data.roots and is_dataflow(config.beam.runner):
        raise UserError(
            f"'data.source' is {config.data.source}, which is downloaded to this machine, where Dataflow's workers "
            f"cannot read it: copy the images to a bucket and set data.path to the gs:// folder."
        )
    places: list[tuple[str, object]] = [("data.path", path) for path in config.data.roots]
    specs = [spec for specs in (config.backbone, *config.curve.backbones) for spec in specs]
    bottlenecks = [("backbone.bottlenecks", spec.bottlenecks) for spec in specs if spec.bottlenecks]
    check_places(config.beam.runner, [*places, ("output_dir", config.run_folder), *bottlenecks])


def check_places(runner: str, places: Iterable[tuple[str, object]]) -> None:
    """Raise UserError for the first local path of some (option, path) if the runner is Dataflow."""
    if not is_dataflow(runner):
        return
    for name, path in places:
        if not is_remote(str(path)):
            raise UserError(
                f"'{name}' is '{path}', which Dataflow's workers cannot read on this machine: set it to a gs:// path, "
                f"or set another beam.runner."
            )


def is_dataflow(runner: str) -> bool:
    """Return True for a name of Google Cloud Dataflow's runner."""
    return runner.rpartition(".")[2].lower().removesuffix("runner") == "dataflow"


def find_runner(name: str) -> PipelineRunner:
    """Return the runner of a name, after importing the module with its options; raises UserError."""
    from apache_beam.options.pipeline_options import StandardOptions
    from apache_beam.runners.runner import create_runner

    if name.rpartition(".")[2].lower().removesuffix("runner") == "dask":
        # Beam 2.72 computes dask_visitor.bags[-1] alone (dask_runner.py), and fails to translate TFDV's Flatten.
        raise UserError(
            f"'beam.runner' is '{name}', which runs only the last branch of a pipeline: set it to another runner."
        )
    try:
        return create_runner(name)
    except ValueError as error:
        (nearest,) = get_close_matches(name, StandardOptions.KNOWN_RUNNER_NAMES, 1, 0)
        raise UserError(f"Beam has no runner '{name}'; did you mean '{nearest}'? Set 'beam.runner' to it.") from error
    except (ImportError, AttributeError, TypeError) as error:  # '..Runner' raises TypeError
        raise UserError(
            f"Cannot load the runner '{name}' ({error}): install it, or set 'beam.runner' to another."
        ) from error


def read_flags(flags: Sequence[str], runner: str) -> dict[str, Any]:
    """Return Beam's flags as keys of the section beam; runner is the default. Raises UserError for a wrong flag."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--runner", default=runner, nargs="?")
    find_runner(first.parse_known_args(flags)[0].runner or runner)
    return parse_flags(flags, "--")


def parse_flags(flags: Sequence[str], prefix: str) -> dict[str, Any]:
    """Return the options that flags set, by name; raises UserError for a wrong one, named with the user's prefix."""
    from apache_beam.options.pipeline_options import PipelineOptions

    parsers: list[argparse.ArgumentParser] = []
    unset = dict.fromkeys(PipelineOptions([]).get_all_options(add_extra_args_fn=parsers.append))
    parsers[0].exit_on_error = False
    add_java_options(parsers[0])
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
    """Return the command-line flags that set options."""
    return [
        f"--{key}"
        if value is True and key != "help"
        else f"--{key}={json.dumps(item) if isinstance(item, dict) else item}"
        for key, value in options.items()
        for item in (value if isinstance(value, list) else [value])
    ]


def make_options(beam: BeamSettings, *job: str) -> PipelineOptions:
    """Return Beam's options for a job whose name has some parts; raises UserError for the first invalid one."""
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.options.pipeline_options_validator import PipelineOptionsValidator

    runner = find_runner(beam.runner)
    given = {key: value for key, value in beam.options.items() if value is not None}
    # These may have no flag, and PipelineOptions.from_dictionary would drop most of them.
    defaults = PipelineOptions([]).get_all_options()
    switches = {k: v for k, v in given.items() if k in defaults and (v is False or v is defaults[k])}
    flags = write_flags({key: value for key, value in given.items() if key not in switches})
    parse_flags(flags, "beam.")
    # Since Beam 2.68 DirectRunner first tries to download another runner; FnApiRunner runs in this process.
    name = "FnApiRunner" if beam.runner.lower() in ("direct", "directrunner") else beam.runner
    options = PipelineOptions(["--runner", name, *flags], **switches)
    found = options.get_all_options(drop_default=True)
    for key in WITHOUT_RESULT:
        if found.get(key):
            raise UserError(f"'beam.{key}' is set, but each stage needs the result of the one before: leave it out.")
    if is_dataflow(beam.runner):
        complete_dataflow(options, runner, "-".join(job))
    # Without the runner, as Beam would query the bucket for Dataflow here.
    errors = PipelineOptionsValidator(options, None).validate()
    if errors:
        raise UserError(f"Beam refuses its options ({errors[0].rstrip('.')}): correct the section 'beam'.")
    return options


def complete_dataflow(options: PipelineOptions, runner: PipelineRunner, job: str) -> None:
    """Set better defaults than Beam's for Dataflow; raises UserError for missing and invalid options."""
    from apache_beam.options.pipeline_options import DebugOptions, GoogleCloudOptions, SetupOptions, WorkerOptions
    from apache_beam.options.pipeline_options_validator import PipelineOptionsValidator

    cloud, setup = options.view_as(GoogleCloudOptions), options.view_as(SetupOptions)
    debug, workers = options.view_as(DebugOptions), options.view_as(WorkerOptions)
    for key, meaning in DATAFLOW_NEEDS.items():
        if not getattr(cloud, key):
            raise UserError(f"'beam.{key}' is missing, but DataflowRunner needs it: set it to {meaning}.")
    if not setup.setup_file and not workers.sdk_container_image:
        raise UserError(
            "'beam.sdk_container_image' is missing: set it to an image built from configs/Dockerfile, or set "
            "beam.setup_file to Topgraft's setup.py, from which each worker installs it."
        )
    if setup.setup_file and not (Path(setup.setup_file).name == "setup.py" and Path(setup.setup_file).is_file()):
        raise UserError(f"'beam.setup_file' is '{setup.setup_file}', which is no setup.py: set it to Topgraft's.")
    # Workers need nothing from the main module.
    setup.save_main_session = bool(setup.save_main_session)
    cloud.job_name = cloud.job_name or name_job(job)
    # One process per worker, as TensorFlow uses all its cores; more processes would each load the model.
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
        raise UserError(f"Dataflow would refuse its options ({errors[0].rstrip('.')}): correct the section 'beam'.")


def name_job(text: str) -> str:
    """Return a job name that Dataflow accepts: lower-case letters, digits and dashes, with a letter first."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return "-".join(["topgraft", *re.findall(r"[a-z0-9]+", plain)])


def place_config(config: Config) -> Config:
    """Return the config with absolute places if the runner's workers have another working directory."""
    if not name_engine(config.beam):
        return config
    data, roots = config.data, tuple(str(place_path(config.beam, as_path(root))) for root in config.data.roots)
    data = replace(data, path=roots[0] if isinstance(data.path, str) else roots or None)
    folder = str(place_path(config.beam, config.run_folder))
    return config.model_copy(update={"data": data, "output_dir": folder})


def place_path(beam: BeamSettings, path: Path) -> Path:
    """Return a path, absolute if the runner's workers have another working directory."""
    return path.absolute() if name_engine(beam) and not is_remote(path) else path
