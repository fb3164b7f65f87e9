"""Check a Flink or Spark cluster, the jar of Beam's job server for it, and Java, before the first job."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.error import URLError
from urllib.request import Request, urlopen

from components.errors import UserError

if TYPE_CHECKING:
    from pipeline.config import BeamSettings

FLINK, SPARK, PORTABLE = "Flink", "Spark", "Portable"
# In the jar of a job server: the file that has the version of its engine, and the key of that version.
VERSION_FILES = {
    FLINK: (".flink-runtime.version.properties", "project.version"),
    SPARK: ("spark-version-info.properties", "version"),
}
EXAMPLES = {
    FLINK: ("flink_master", "10.0.0.1:8081", "beam-runners-flink-1.19-job-server-2.70.0.jar"),
    SPARK: ("spark_master_url", "spark://10.0.0.1:7077", "beam-runners-spark-3-job-server-2.72.0.jar"),
}
# Of Spark's master, whose default this is.
SPARK_PAGE = 8080
# Seconds until a cluster must answer.
TIMEOUT = 20


class Cluster(NamedTuple):
    """A cluster: its engine, the host and port of its master, and the jar of the job server with its version."""

    engine: str
    address: str
    jar: Path
    version: str

    @property
    def host(self) -> str:
        return self.address.rpartition(":")[0]


def name_engine(beam: BeamSettings) -> str:
    """Return Flink, Spark, Portable for another job service outside of the command, '' for any other runner."""
    name = beam.runner.rpartition(".")[2].lower().removesuffix("runner").capitalize()
    local = name == PORTABLE and beam.options.get("job_endpoint") in (None, "embed")
    return name if name in (FLINK, SPARK, PORTABLE) and not local else ""


def find_cluster(beam: BeamSettings) -> Cluster | None:
    """Return the cluster of Flink's or Spark's runner, None for another one; raises UserError for what is missing."""
    engine = name_engine(beam)
    if engine not in EXAMPLES:
        return None
    key, example, _ = EXAMPLES[engine]
    address = str(beam.options.get(key) or "")
    scheme = r"(?:https?://)?" if engine == FLINK else "spark://"
    found = re.fullmatch(rf"{scheme}([^\s/]+:\d+)/?", address)
    if not found:
        raise UserError(f"'beam.{key}' is '{address}': set it to the address of a {engine} cluster, such as {example}.")
    jar = Path(str(beam.options.get(f"{engine.lower()}_job_server_jar") or ""))
    version = check_jar(engine, jar)
    check_java(str(beam.options.get("job_server_java_launcher") or "java"))
    return Cluster(engine, found[1], jar, version)


def check_jar(engine: str, jar: Path) -> str:
    """Return the version of the engine for which a jar is Beam's job server; raises UserError if it is none."""
    key, example = f"beam.{engine.lower()}_job_server_jar", EXAMPLES[engine][2]
    file, name = VERSION_FILES[engine]
    if not jar.is_file():
        raise UserError(
            f"'{key}' is '{jar if jar.name else ''}', which is no file: set it to Beam's job server for {engine}, such "
            f"as {example} of Maven Central (org.apache.beam)."
        )
    try:
        with zipfile.ZipFile(jar) as archive:
            found = re.search(rf"^{name}=(\S+)", archive.read(file).decode(), re.MULTILINE)
    except (OSError, KeyError, zipfile.BadZipFile):
        found = None
    if not found:
        raise UserError(f"'{key}' is '{jar}', which is not Beam's job server for {engine}: set it to {example}.")
    return found[1]


def check_java(program: str) -> None:
    """Raise UserError unless the program is a Java that runs."""
    try:
        subprocess.run([program, "-version"], check=True, capture_output=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        raise UserError(
            f"Java does not run here ('{program}': {type(error).__name__}), but Beam's job server needs it: install "
            f"Java 11 or 17, or set beam.job_server_java_launcher to the program."
        ) from error


def count_slots(cluster: Cluster, beam: BeamSettings) -> int:
    """Return the number of tasks that a job is to have side by side: the user's parallelism, or all free slots.

    Raises UserError if the cluster does not answer, has another version than the jar, or too few free slots.
    """
    if cluster.engine == FLINK:
        overview = ask_flink(cluster, "overview")
        found, free = overview["flink-version"], overview["slots-available"]
        fits = found.split(".")[:2] == cluster.version.split(".")[:2]
        missing = "start a TaskManager, or wait for the other jobs"
    else:
        page, state = ask_spark(cluster)
        version = re.search(r'class="version"[^>]*>\s*([\w.]+)', page)
        found = version[1] if version else cluster.version
        free = sum(worker["coresfree"] for worker in state["workers"] if worker["state"] == "ALIVE")
        fits = found == cluster.version  # also the last number: Java's classes of another one cannot be read
        missing = "start a worker, or wait for the other applications"
    if not fits:
        raise UserError(
            f"The cluster at {cluster.address} runs {cluster.engine} {found}, the job server '{cluster.jar.name}' is "
            f"for {cluster.version}: take the job server of the cluster's version."
        )
    asked = int(beam.options.get("parallelism") or 0)
    if free < max(asked, 1):
        needs = f"beam.parallelism asks for {asked}" if asked else "a job needs 1"
        raise UserError(f"The cluster at {cluster.address} has {free} free slots, and {needs}: {missing}.")
    return asked or free


def list_processes(cluster: Cluster) -> list[str]:
    """Return the identities of the TaskManagers or Spark workers; each start gives a new one."""
    if cluster.engine == FLINK:
        return sorted(manager["id"] for manager in ask_flink(cluster, "taskmanagers")["taskmanagers"])
    return sorted(worker["id"] for worker in ask_spark(cluster)[1]["workers"] if worker["state"] == "ALIVE")


def ask_flink(cluster: Cluster, path: str, method: str = "GET") -> dict[str, Any]:
    """Return the answer of a JobManager's REST interface; raises UserError if there is none."""
    answer: dict[str, Any] = json.loads(_fetch(cluster, f"http://{cluster.address}/{path}", method) or "{}")
    return answer


def ask_spark(cluster: Cluster) -> tuple[str, dict[str, Any]]:
    """Return the page of a Spark master, and its state; raises UserError if it does not answer."""
    try:
        socket.create_connection((cluster.host, int(cluster.address.rpartition(":")[2])), TIMEOUT).close()
    except OSError as error:
        raise _unreachable(cluster, cluster.address, error) from error
    page = f"http://{cluster.host}:{SPARK_PAGE}"
    return _fetch(cluster, page), json.loads(_fetch(cluster, f"{page}/json/"))


def _fetch(cluster: Cluster, url: str, method: str = "GET") -> str:
    try:
        with urlopen(Request(url, method=method), timeout=TIMEOUT) as answer:  # noqa: S310
            text: str = answer.read().decode()
            return text
    except (OSError, ValueError) as error:
        reason = error.reason if isinstance(error, URLError) else error
        raise _unreachable(cluster, url, reason) from error


def _unreachable(cluster: Cluster, place: str, reason: object) -> UserError:
    return UserError(
        f"The {cluster.engine} cluster does not answer at {place} ({reason}): start it, or correct "
        f"beam.{EXAMPLES[cluster.engine][0]}."
    )
