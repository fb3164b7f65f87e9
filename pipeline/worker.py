"""The program topgraft-worker, which Flink and Spark start for the steps of a job, and the pool that starts it."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import threading

import grpc
from apache_beam.portability.api import beam_fn_api_pb2, beam_fn_api_pb2_grpc
from apache_beam.portability.api import beam_provision_api_pb2 as provision
from apache_beam.portability.api import beam_provision_api_pb2_grpc as provision_grpc
from apache_beam.utils.thread_pool_executor import shared_unbounded_instance
from google.protobuf import json_format

from components.errors import UserError
from components.terminal.text import print_line

# Printed once a worker has the settings of its job.
READY = "ready"
# Seconds until a worker must have them: the import of Beam takes 4 s on a free processor.
START_TIMEOUT = 90
# Seconds in which a stopped worker ends of itself.
STOP_TIMEOUT = 10


def main() -> None:
    """Run one worker of a Beam job, as the engine's --id and --provision_endpoint say; it ends with the connection."""
    from apache_beam.runners.worker import sdk_worker_main

    parser = argparse.ArgumentParser(prog="topgraft-worker", allow_abbrev=False)
    parser.add_argument("--id", required=True)
    parser.add_argument("--provision_endpoint", required=True)
    options, _ = parser.parse_known_args()
    os.environ.update(read_settings(options.id, options.provision_endpoint))
    print(READY, flush=True)
    os.dup2(2, 1)  # a pool reads no more than that
    sdk_worker_main.main([])


def read_settings(worker: str, endpoint: str) -> dict[str, str]:
    """Return the environment variables that Beam's worker reads, from the provision service of an engine."""
    with grpc.insecure_channel(endpoint) as channel:
        info = (
            provision_grpc.ProvisionServiceStub(channel)
            .GetProvisionInfo(
                provision.GetProvisionInfoRequest(),
                metadata=[("worker_id", worker)],
                timeout=START_TIMEOUT,
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


class Pool(beam_fn_api_pb2_grpc.BeamFnExternalWorkerPoolServicer):
    """Starts workers on request. Several TaskManagers of a host may use it, though each calls its first worker 1-1."""

    def __init__(self) -> None:
        self._workers: dict[tuple[str, str], subprocess.Popen[str]] = {}

    def StartWorker(  # noqa: N802
        self, request: beam_fn_api_pb2.StartWorkerRequest, context: grpc.ServicerContext
    ) -> beam_fn_api_pb2.StartWorkerResponse:
        """Return when the worker has the settings of its job; the response has an error where it could not start."""
        endpoint = request.provision_endpoint.url
        words = [f"--id={request.worker_id}", f"--provision_endpoint={endpoint}"]
        worker = subprocess.Popen([sys.executable, "-m", __name__, *words], stdout=subprocess.PIPE, text=True)
        assert worker.stdout
        limit = threading.Timer(START_TIMEOUT, worker.kill)
        limit.start()
        answer = worker.stdout.readline().strip()
        limit.cancel()
        if answer != READY:
            worker.kill()
            error = (
                f"topgraft worker could not start {request.worker_id} (exit status {worker.wait()}): read its messages"
            )
            print(error, file=sys.stderr, flush=True)
            return beam_fn_api_pb2.StartWorkerResponse(error=error)
        self._workers = {key: other for key, other in self._workers.items() if other.poll() is None}
        self._workers[request.worker_id, endpoint] = worker
        return beam_fn_api_pb2.StartWorkerResponse()

    def StopWorker(  # noqa: N802
        self, request: beam_fn_api_pb2.StopWorkerRequest, context: grpc.ServicerContext
    ) -> beam_fn_api_pb2.StopWorkerResponse:
        """Stop a worker that does not end of itself. Where several have its name, all end with their connections."""
        named = [worker for (name, _), worker in self._workers.items() if name == request.worker_id]
        if len(named) == 1:
            try:
                named[0].wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                named[0].kill()
        return beam_fn_api_pb2.StopWorkerResponse()

    def stop(self) -> None:
        """Kill all workers."""
        for worker in self._workers.values():
            worker.kill()
            worker.wait()


def serve_pool(port: int) -> None:
    """Start workers at a port of this host, which no other host reaches, until an interrupt; raises UserError."""
    pool, server = Pool(), grpc.server(shared_unbounded_instance(), options=[("grpc.so_reuseport", 0)])
    beam_fn_api_pb2_grpc.add_BeamFnExternalWorkerPoolServicer_to_server(pool, server)
    try:
        bound = server.add_insecure_port(f"localhost:{port}")
    except RuntimeError as error:
        raise UserError(f"Port {port} is in use: give another one to topgraft worker --port.") from error
    server.start()
    print_line(f"workers start at localhost:{bound}: set beam.environment_type to EXTERNAL, environment_config to that")
    sys.stdout.flush()
    try:
        server.wait_for_termination()
    finally:
        server.stop(0)
        pool.stop()


if __name__ == "__main__":
    main()
