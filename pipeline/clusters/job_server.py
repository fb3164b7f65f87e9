"""Beam's job server in Java, which gives the jobs of one command to a Flink or Spark cluster."""

from __future__ import annotations

import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from components.errors import UserError
from pipeline.clusters.checks import FLINK, Cluster, ask_flink

if TYPE_CHECKING:
    from pipeline.config import BeamSettings

# Packages of Java's own that Flink's client and Spark's driver look into (org.apache.spark.launcher.JavaModuleOptions).
OPENED = (
    *("java.lang", "java.lang.invoke", "java.lang.reflect", "java.io", "java.net", "java.nio", "java.util"),
    *("java.util.concurrent", "java.util.concurrent.atomic", "sun.nio.ch", "sun.nio.cs", "sun.security.action"),
    "sun.util.calendar",
)
# Seconds for the start of the job server, and for the end of cancelled jobs.
START_TIMEOUT, CANCEL_TIMEOUT = 120, 30
ENDED = ("FINISHED", "FAILED", "CANCELED")


@contextmanager
def serve_jobs(cluster: Cluster, beam: BeamSettings, slots: int) -> Iterator[tuple[str, Path]]:
    """Yield the address of a job server and its log; it ends with the block, and when this process is killed.

    Raises UserError if it does not start.
    """
    with tempfile.TemporaryDirectory(prefix="topgraft-job-server-") as folder:
        log, port = Path(folder, "log"), find_port()
        with log.open("wb") as file:
            # A session of its own, as Ctrl-C must cancel its jobs before it ends.
            server = subprocess.Popen(
                make_command(cluster, beam, slots, Path(folder), port),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        # Ends the server when the pipe to this process closes, however that happens.
        guard = subprocess.Popen(
            ["sh", "-c", 'read _; kill -9 "$0"; rm -rf "$1"', str(server.pid), folder],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            wait_for_port(server, port, log)
            yield f"localhost:{port}", log
        finally:
            guard.kill()
            guard.wait()
            server.kill()
            server.wait()


def make_command(cluster: Cluster, beam: BeamSettings, slots: int, folder: Path, port: int) -> list[str]:
    """Return the command line of a job server that listens on this machine only, with its files in a folder."""
    given = beam.options
    properties, arguments = ["-Xmx1g", *(f"--add-opens=java.base/{name}=ALL-UNNAMED" for name in OPENED)], []
    if cluster.engine == FLINK:
        arguments = [f"--flink-master={cluster.address}"]
    else:  # the server is Spark's driver, which the executors call back
        settings = {
            "driver.host": find_address(cluster),
            "default.parallelism": slots,
            "cores.max": slots,
            "ui.enabled": "false",
        }
        properties += [f"-Dspark.{key}={value}" for key, value in settings.items()]
        arguments = [f"--spark-master-url=spark://{cluster.address}"]
    own = given.get("job_server_jvm_properties") or []
    return [
        str(given.get("job_server_java_launcher") or "java"),
        *properties,
        *([own] if isinstance(own, str) else own),
        *("-jar", str(cluster.jar), *arguments, "--job-host=localhost", f"--job-port={port}"),
        *("--artifact-port=0", "--expansion-port=0"),
        f"--artifacts-dir={given.get('artifacts_dir') or folder / 'artifacts'}",
    ]


def find_port() -> int:
    """Return a free port of this machine."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port: int = probe.getsockname()[1]
        return port


def find_address(cluster: Cluster) -> str:
    """Return the address under which the hosts of a cluster reach this machine."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((cluster.host, 9))  # chooses the route, and sends nothing
        address: str = probe.getsockname()[0]
        return address


def wait_for_port(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Return when a job server listens at its port; raises UserError if it ends before, or does not start."""
    end = time.monotonic() + START_TIMEOUT
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("localhost", port)) == 0:
                return
        if server.poll() is not None or time.monotonic() > end:
            last = log.read_text(errors="replace").strip().rpartition("\n")[2]
            raise UserError(
                f"Beam's job server did not start ({last or 'it wrote nothing'}): check the jar, "
                f"beam.job_server_jvm_properties and the version of Java, 11 or 17."
            )
        time.sleep(0.1)


def cancel_flink_jobs(cluster: Cluster, tag: str) -> None:
    """Cancel the running jobs whose names end in a tag, and return when they have ended or after CANCEL_TIMEOUT."""
    end = time.monotonic() + CANCEL_TIMEOUT
    asked: set[str] = set()
    while True:
        jobs = ask_flink(cluster, "jobs/overview")["jobs"]
        running = [job["jid"] for job in jobs if job["name"].endswith(f"-{tag}") and job["state"] not in ENDED]
        if not running or time.monotonic() > end:
            time.sleep(2 if asked else 0)  # until the TaskManagers have reported their free slots
            return
        for job in {*running} - asked:
            ask_flink(cluster, f"jobs/{job}?mode=cancel", "PATCH")
            asked.add(job)
        time.sleep(0.5)
