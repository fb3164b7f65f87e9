"""The program topgraft-worker, which Flink and Spark start for the steps of a job."""

from __future__ import annotations

import argparse
import os
import sys

from pipeline.clusters.fork_server import run_forked

# Printed once a worker has the settings of its job.
READY = "ready"
# Seconds until a worker must have them.
SETTINGS_TIMEOUT = 90


def main() -> None:
    """Run one worker of a Beam job, as the engine's --id and --provision_endpoint say; it ends with the connection."""
    os._exit(run_forked(sys.argv[1:]))


def work(words: list[str]) -> None:
    """Do the work of one worker with the words of its command line, until the engine has no more for it."""
    from apache_beam.runners.worker import sdk_worker_main

    parser = argparse.ArgumentParser(prog="topgraft-worker", allow_abbrev=False)
    parser.add_argument("--id", required=True)
    parser.add_argument("--provision_endpoint", required=True)
    options, _ = parser.parse_known_args(words)
    os.environ.update(read_settings(options.id, options.provision_endpoint))
    print(READY, flush=True)
    os.dup2(2, 1)  # a pool reads no more than that
    sdk_worker_main.main([])


def read_settings(worker: str, endpoint: str) -> dict[str, str]:
    """Return the environment variables that Beam's worker reads, from the provision service of an engine."""
    import grpc
    from apache_beam.portability.api import beam_provision_api_pb2 as provision
    from apache_beam.portability.api import beam_provision_api_pb2_grpc as provision_grpc
    from google.protobuf import json_format

    with grpc.insecure_channel(endpoint) as channel:
        info = (
            provision_grpc.ProvisionServiceStub(channel)
            .GetProvisionInfo(
                provision.GetProvisionInfoRequest(),
                metadata=[("worker_id", worker)],
                timeout=SETTINGS_TIMEOUT,
                wait_for_ready=True,
            )
            .info
        )
    return {
        "WORKER_ID": worker,
        "PIPELINE_OPTIONS": json_format.MessageToJson(info.pipeline_options),
        "LOGGING_API_SERVICE_DESCRIPTOR": str(info.logging_endpoint),
        "CONTROL_API_SERVICE_DESCRIPTOR": str(info.control_endpoint),
        "RUNNER_CAPABILITIES": " ".join(info.runner_capabilities),
    }


if __name__ == "__main__":
    main()
