"""Describe a failed job of a Flink or Spark cluster in one sentence: its root cause, and a setting where one helps."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from urllib.request import urlopen

from components.errors import UserError
from pipeline.clusters.checks import FLINK, Cluster, ask_flink
from pipeline.failures import describe_failure

GO_ON = "then the same command continues where it stopped"
# What the engines write, and the sentence for it; the first that is found counts.
KNOWN = (
    (
        "Insufficient number of network buffers",
        "Flink has too few network buffers: set taskmanager.memory.network.min and max to 384m or more",
    ),
    (
        "Direct buffer memory|Cannot reserve \\d+ bytes of direct buffer memory",
        "Flink has too little direct memory: set taskmanager.memory.task.off-heap.size to 1g or more",
    ),
    (
        "OutOfMemoryError: Metaspace",
        "Flink has no metaspace left: set taskmanager.memory.jvm-metaspace.size to 512m or more, and restart it",
    ),
    (
        "OutOfMemoryError: (?:Java heap space|GC overhead limit exceeded)",
        "The Java heap of a worker is full: set taskmanager.memory.process.size (Flink), or in "
        "beam.job_server_jvm_properties -Dspark.executor.memory (Spark), to a higher value",
    ),
    (
        "record exceeds the maximum size of a sort buffer",
        "Flink has too little memory to sort: set taskmanager.memory.managed.size to 1g or more",
    ),
    (
        "NoResourceAvailableException|Could not acquire the minimum required resources",
        "Flink has no free slot for a task: start a TaskManager, or lower beam.parallelism",
    ),
    (
        "serialVersionUID",
        "The cluster has other classes of Spark than the job server: take the job server of the cluster's version",
    ),
    (
        "All masters are unresponsive",
        "The Spark master does not answer: start it, or correct beam.spark_master_url",
    ),
    (
        "Channel closed prematurely",  # of Beam's own job service
        "A worker ended before its work did: check its memory and its log, and start it again",
    ),
    (
        "Cannot run program|Process died with exit code|topgraft worker could not start",
        "A worker could not start, or ended: install this version of Topgraft on every host under the same path, and "
        "check its memory",
    ),
)
# Follow from another failure, and say nothing about it.
HOLLOW = re.compile(
    "call is closed|already half-closed|CANCELLED|Recovery is suppressed|Job execution failed|Pipeline execution failed"
    "|ExecutionException|PartitionNotFoundException|HTTP/2 error|Failed to read from channel|^null$"
)
LOST = re.compile(
    "Heartbeat of TaskManager|TaskManager with id .* (?:is no longer reachable|disconnected)|RemoteTransportException"
    "|TaskExecutor .* (?:lost|disconnected)|ExecutorLostFailure|SparkContext was shut down|Connection unexpectedly"
)
TAIL = 200_000


def describe_cluster_failure(
    error: BaseException, cluster: Cluster | None, tag: str, logs: Sequence[Path]
) -> str | None:
    """Return one sentence for a failed job of a cluster, None for an error that is no failure of a job."""
    import grpc

    failed = isinstance(error, RuntimeError) and re.search(r"failed in state|^Pipeline failed", str(error))
    if not failed and not isinstance(error, grpc.RpcError | grpc.FutureTimeoutError):
        return None
    texts = [str(error), *(log.read_text(errors="replace")[-TAIL:] for log in logs)]
    if cluster and cluster.engine == FLINK:
        try:
            texts += read_flink_failures(cluster, tag)
        except UserError:
            return f"The JobManager at {cluster.address} does not answer any more: start it again, {GO_ON}."
    for pattern, sentence in KNOWN:
        if any(re.search(pattern, text) for text in texts):
            return f"{sentence}, {GO_ON}."
    for text in texts:
        described = describe_failure(RuntimeError(text.replace("Caused by: ", "\n")))
        if described:
            return described
    cause = find_cause(texts)
    if cause:
        return f"The job failed ({cause}): correct that, {GO_ON}."
    if any("NoRestartBackoffTimeStrategy" in text for text in texts):
        return f"Flink lost a part of the job, and tries none again: set restart-strategy.type to fixed-delay, {GO_ON}."
    if any(LOST.search(text) for text in texts) or not failed:
        return f"The cluster lost workers or the connection to this command: check its hosts, {GO_ON}."
    return f"The job failed, and the engine gives no cause: read its logs, {GO_ON}."


def find_cause(texts: Sequence[str]) -> str:
    """Return the error of a Python worker, else the last cause of a Java trace that says something, else ''."""
    for text in texts:
        for trace in re.findall(r"Traceback \(most recent call last\):\n(?:[ \t].*\n|\n)+(\w[\w.]*(?:: .*)?)", text):
            if not HOLLOW.search(trace):
                return str(trace.partition(" [while running")[0])
    for text in texts:
        for cause in reversed(re.findall(r"^\s*Caused by: (.+)", text, re.MULTILINE)):
            if not HOLLOW.search(cause) and not LOST.search(cause):
                return str(cause)
    return ""


def read_flink_failures(cluster: Cluster, tag: str) -> list[str]:
    """Return the exceptions of the newest job whose name ends in a tag, and the ends of the TaskManagers' logs."""
    jobs = [job for job in ask_flink(cluster, "jobs/overview")["jobs"] if job["name"].endswith(f"-{tag}")]
    texts = []
    for job in sorted(jobs, key=lambda job: job["start-time"])[-1:]:
        found = ask_flink(cluster, f"jobs/{job['jid']}/exceptions")
        entries = found.get("exceptionHistory", {}).get("entries", [])
        texts += [str(entry.get("stacktrace")) for entry in entries] + [str(found.get("root-exception"))]
    for manager in ask_flink(cluster, "taskmanagers")["taskmanagers"]:
        with suppress(OSError), urlopen(f"http://{cluster.address}/taskmanagers/{manager['id']}/log") as log:  # noqa: S310
            texts.append(log.read().decode(errors="replace")[-TAIL:])
    return texts
