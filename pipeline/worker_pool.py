"""The pool of topgraft worker, which starts topgraft-worker on request, as a sidecar of a TaskManager does."""

from __future__ import annotations

import subprocess
import sys
import threading

import grpc
from apache_beam.portability.api import beam_fn_api_pb2, beam_fn_api_pb2_grpc
from apache_beam.utils.thread_pool_executor import shared_unbounded_instance

from components.errors import UserError
from components.terminal.text import print_line
from pipeline.worker import READY

# Seconds in which a worker must have started, and in which a stopped one ends of itself.
START_TIMEOUT, STOP_TIMEOUT = 120, 10


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
        worker = subprocess.Popen([sys.executable, "-m", "pipeline.worker", *words], stdout=subprocess.PIPE, text=True)
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
