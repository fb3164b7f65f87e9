"""Jobs on Flink and Spark: complete Beam's options, check the workers, and keep one job server for each command."""

from __future__ import annotations

import hashlib
import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from components.errors import DamagedFile, UserError
from components.run_dir import RunDir
from components.shards.spans import IMAGES_PER_SHARD
from components.storage.downloads import cache_folder
from components.storage.files import read_json, write_json
from pipeline.clusters.checks import FLINK, SPARK, Cluster, count_slots, find_cluster, list_processes, name_engine
from pipeline.clusters.failures import describe_cluster_failure
from pipeline.clusters.job_server import cancel_flink_jobs, serve_jobs
from pipeline.config import BeamSettings, Config
from pipeline.run_lock import remove_unfinished
from pipeline.runners import make_options, name_job

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

# The engines refuse the Flatten of a graph that Beam has not optimized, and read all files in one task.
EXPERIMENT = "pre_optimize=all"
# Beam stops to listen to a job after this time, so it is longer than any job: thirty days.
JOB_SERVER_TIMEOUT = 30 * 24 * 3600
# Options that Beam's job servers for Flink and Spark have, and services in Python have not.
JAVA_ONLY = {"execution_mode_for_batch", "bundle_size"}
# Milliseconds that a worker waits for the next stage. On Flink it outlives its job for as long, on Spark it does not.
CACHE_MILLIS = {FLINK: 20_000, SPARK: 600_000}


@contextmanager
def connect_run(config: Config, run: RunDir) -> Iterator[Callable[[str, int], PipelineOptions]]:
    """Yield a function from a stage's name and number of images to Beam's options, as connect_runner does.

    A stage whose images fit in one shard runs in this process, unless the config sets beam.shards. Files of lost
    workers are removed at the end.
    """
    data = config.data.roots or [str(cache_folder())]
    with connect_runner(config.beam, config.name, run.root, data, run.workers) as make_job:

        def make_stage(stage: str, images: int) -> PipelineOptions:
            if not name_engine(config.beam) or config.beam.shards or images > IMAGES_PER_SHARD:
                return make_job(stage)
            print(
                f"topgraft: {stage} runs in this process, as its {images:,} images fit in one shard "
                f"(of {IMAGES_PER_SHARD:,} images; set beam.shards to give it to the cluster).",
                file=sys.stderr,
            )
            return make_options(BeamSettings())

        yield make_stage
    if name_engine(config.beam):
        remove_unfinished(run)


@contextmanager
def connect_runner(
    beam: BeamSettings, name: str, folder: Path, data: Sequence[str], checked: Path | None = None
) -> Iterator[Callable[[str], PipelineOptions]]:
    """Yield a function from the name of a stage to Beam's options for its job; name is that of the run.

    On Flink and Spark the first call checks the cluster, and that its workers reach folder and data; it starts the job
    server, which ends with the block. The file `checked` names the workers of the last check. Raises UserError, also
    for a job that failed.
    """
    if not name_engine(beam):
        yield partial(make_options, beam, name)
        return
    cluster, tag = find_cluster(beam), hashlib.sha256(str(folder).encode()).hexdigest()[:8]
    connected: list[BeamSettings] = []
    logs: list[Path] = []
    with ExitStack() as stack:

        def make_job(stage: str) -> PipelineOptions:
            if not cluster and not is_java_server(str(beam.options["job_endpoint"])):
                return make_options(beam, name, stage)
            if not connected:
                settings = complete_settings(beam)
                if cluster:
                    if cluster.engine == FLINK:
                        cancel_flink_jobs(cluster, tag)  # of a command that was killed, to have their slots
                        stack.callback(_cancel_last, cluster, tag)
                    slots = count_slots(cluster, beam)
                    endpoint, log = stack.enter_context(serve_jobs(cluster, beam, slots))
                    logs.append(log)
                    settings = complete_settings(beam, cluster.engine, slots, endpoint)
                check = partial(name_job_of, settings, f"{name}-check", tag)
                _check_workers(check, settings, cluster, folder, data, checked)
                connected.append(settings)
            return name_job_of(connected[0], f"{name}-{stage}", tag)

        def end(number: int, frame: object) -> NoReturn:
            raise KeyboardInterrupt

        if threading.current_thread() is threading.main_thread():
            stack.callback(signal.signal, signal.SIGTERM, signal.signal(signal.SIGTERM, end))
        try:
            yield make_job
        except (UserError, DamagedFile):
            raise
        except Exception as error:
            described = describe_cluster_failure(error, cluster, tag, logs)
            if not described:
                raise
            raise UserError(described) from error


def complete_settings(beam: BeamSettings, engine: str = "", slots: int = 0, endpoint: str = "") -> BeamSettings:
    """Return settings for a job service with the defaults that its jobs need where the user has none.

    Workers are processes of this installation, which the service's hosts have under the same path.
    """
    given = {key: value for key, value in beam.options.items() if value is not None}
    added: dict[str, Any] = {"experiments": [EXPERIMENT], "job_server_timeout": JOB_SERVER_TIMEOUT}
    if not {"environment_type", "environment_config", "environment_options"} & given.keys():
        command = Path(sys.executable).parent / "topgraft-worker"
        if not command.exists():
            raise UserError(f"The program '{command}' does not exist: install Topgraft there with pip install.")
        added.update(environment_type="PROCESS", environment_config=json.dumps({"command": str(command)}))
    if engine:
        added.update(parallelism=slots, environment_cache_millis=CACHE_MILLIS[engine])
        given["job_endpoint"] = endpoint
    if engine == FLINK:
        added["execution_mode_for_batch"] = "BATCH_FORCED"  # else any loss starts the whole job again
    return BeamSettings(**{**added, **given, "runner": "PortableRunner", "shards": beam.shards})


def is_java_server(endpoint: str) -> bool:
    """Return whether the job service at an address is one of Flink or Spark; raises UserError if it does not answer."""
    import grpc
    from apache_beam.portability.api import beam_job_api_pb2, beam_job_api_pb2_grpc

    with grpc.insecure_channel(endpoint) as channel:
        ask = beam_job_api_pb2_grpc.JobServiceStub(channel).DescribePipelineOptions
        try:
            found = ask(beam_job_api_pb2.DescribePipelineOptionsRequest(), timeout=60, wait_for_ready=True).options
        except grpc.RpcError as error:
            raise UserError(f"No job service is at '{endpoint}': start it, or correct beam.job_endpoint.") from error
    return not JAVA_ONLY.isdisjoint(option.name for option in found)


def name_job_of(beam: BeamSettings, job: str, tag: str) -> PipelineOptions:
    """Return Beam's options for a job whose name ends in a tag, by which the next command finds a forgotten job."""
    name = f"{beam.options.get('job_name') or name_job(job)}-{tag}"
    return make_options(BeamSettings(**{**beam.model_dump(), "job_name": name}))


def _cancel_last(cluster: Cluster, tag: str) -> None:
    with suppress(UserError):  # the JobManager may be gone, and the jobs with it
        cancel_flink_jobs(cluster, tag)


def _check_workers(
    make_check: Callable[[], PipelineOptions],
    beam: BeamSettings,
    cluster: Cluster | None,
    folder: Path,
    data: Sequence[str],
    checked: Path | None,
) -> None:
    from pipeline.clusters.worker_probe import hash_code, probe_workers

    workers = list_processes(cluster) if cluster else []
    environment = beam.options.get("environment_config")
    state = {"workers": workers, "environment": environment, "code": hash_code(), "data": [*data]}
    with suppress(FileNotFoundError, DamagedFile):
        if checked and workers and read_json(checked) == state:
            return
    probe_workers(make_check(), int(beam.options.get("parallelism") or 1), folder, data)
    if checked:
        write_json(checked, state)
