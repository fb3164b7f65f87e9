"""A cluster in small for tests: Beam's job service, whose jobs have two workers, one in each of two worker pools.

Started as a process: python two_workers.py POOL POOL, the pools' addresses; it prints the job service's address and the
one that is to be the jobs' EXTERNAL environment. Beam's own job service gives a job one worker.
"""

import itertools
import sys
import time

import grpc
from apache_beam.portability.api import beam_fn_api_pb2_grpc
from apache_beam.runners.portability import local_job_service
from apache_beam.runners.portability.fn_api_runner import fn_runner
from apache_beam.utils.thread_pool_executor import shared_unbounded_instance


class TwoWorkers(fn_runner.FnApiRunner):
    def __init__(self, **settings):
        super().__init__(**settings)
        self._num_workers = 2


class Pools(beam_fn_api_pb2_grpc.BeamFnExternalWorkerPoolServicer):
    """Has workers started by several pools in turn, and by the next where one is gone."""

    def __init__(self, addresses):
        self._stubs = [
            beam_fn_api_pb2_grpc.BeamFnExternalWorkerPoolStub(grpc.insecure_channel(address)) for address in addresses
        ]
        self._turns = itertools.cycle(range(len(addresses)))

    def StartWorker(self, request, context):  # noqa: N802
        for _ in self._stubs:
            try:
                return self._stubs[next(self._turns)].StartWorker(request)
            except grpc.RpcError:
                continue
        return context.abort(grpc.StatusCode.UNAVAILABLE, "no pool is left")


def main():
    fn_runner.FnApiRunner = TwoWorkers
    pools = grpc.server(shared_unbounded_instance())
    beam_fn_api_pb2_grpc.add_BeamFnExternalWorkerPoolServicer_to_server(Pools(sys.argv[1:]), pools)
    port = pools.add_insecure_port("localhost:0")
    pools.start()
    jobs = local_job_service.LocalJobServicer(None).start_grpc_server()
    print(f"localhost:{jobs} localhost:{port}", flush=True)
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    main()
