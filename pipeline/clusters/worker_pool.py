"""The pool of topgraft worker, which starts topgraft-worker on request, for a sidecar of a TaskManager."""

from __future__ import annotations

import subprocess
import sys
import threading

import grpc
from apache_beam.portability.api import beam_fn_api_pb2, beam_fn_api_pb2_grpc
from apache_beam.utils.thread_pool_executor import shared_unbounded_instance

from components.errors import UserError
from components.terminal.text import print_line
from pipeline.clusters.worker import READY

# Seconds in which a worker must have started.
START_TIMEOUT = 120


class Pool(beam_fn_api_pb2_grpc.BeamFnExternalWorkerPoolServicer):
    """Starts workers. Each ends with the connection to its TaskManager, so several of these may call theirs 1-1."""

    def StartWorker(  # noqa: N802
        self, request: beam_fn_api_pb2.StartWorkerRequest, context: grpc.ServicerContext
    ) -> beam_fn_api_pb2.StartWorkerResponse:
        """Return when the worker has the settings of its job; the response has an error where it could not start."""
        words = [f"--id={request.worker_id}", f"--provision_endpoint={request.provision_endpoint.url}"]
        worker = subprocess.Popen(
            [sys.executable, "-m", "pipeline.clusters.worker", *words], stdout=subprocess.PIPE, text=True
        )
        assert worker.stdout
        limit = threading.Timer(START_TIMEOUT, worker.kill)
        limit.start()
        answer = worker.stdout.readline().strip()
        limit.cancel()
        if answer == READY:
            threading.Thread(target=worker.wait, daemon=True).start()
            return beam_fn_api_pb2.StartWorkerResponse()
        worker.kill()
        error = f"topgraft worker could not start {request.worker_id} (exit status {worker.wait()})"
        print(error, file=sys.stderr, flush=True)
        return beam_fn_api_pb2.StartWorkerResponse(error=error)

    def StopWorker(  # noqa: N802
        self, request: beam_fn_api_pb2.StopWorkerRequest, context: grpc.ServicerContext
    ) -> beam_fn_api_pb2.StopWorkerResponse:
        """Do nothing: the name tells no worker of several, and a TaskManager closes the connection before."""
        return beam_fn_api_pb2.StopWorkerResponse()


def serve_pool(port: int) -> None:
    """Start workers at a port of this host, which no other host reaches, until an interrupt; raises UserError."""
    server = grpc.server(shared_unbounded_instance(), options=[("grpc.so_reuseport", 0)])
    beam_fn_api_pb2_grpc.add_BeamFnExternalWorkerPoolServicer_to_server(Pool(), server)
    try:
        bound = server.add_insecure_port(f"localhost:{port}")
    except RuntimeError as error:
        raise UserError(f"Port {port} is in use: give another one to topgraft worker --port.") from error
    server.start()
    print_line(f"workers start at localhost:{bound}: set beam.environment_type to EXTERNAL, environment_config to that")
    sys.stdout.flush()
    server.wait_for_termination()
