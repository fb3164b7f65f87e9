"""Check by a small job that every worker of a cluster has this version, and sees the run folder and the data."""

from __future__ import annotations

import functools
import hashlib
import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from components.errors import DamagedFile, UserError
from components.storage.files import PARTIAL, read_json, write_json
from components.storage.places import is_remote, make_folder, remove
from components.terminal.text import join_names

TOKEN = "token.json"
# Seconds until a worker must see a new file on a shared mount (NFS keeps listings for up to 30 s, but not of a new
# folder), and until all workers must have answered.
SIGHT_TIMEOUT, ANSWER_TIMEOUT = 20, 120


class ProbeWorker(beam.DoFn):
    """Writes the report of a worker, once per task, beside a token that only the shared folder has."""

    def __init__(self, folder: Path, places: Sequence[str]):
        self._folder = folder
        self._places = places

    def process(self, number: int) -> Iterator[None]:
        end = time.monotonic() + SIGHT_TIMEOUT
        while not (self._folder / TOKEN).exists():
            if time.monotonic() > end:
                return  # its report is missing
            time.sleep(0.5)
        report = {"host": socket.gethostname(), "code": hash_code(), "places": list(map(describe, self._places))}
        write_json(self._folder / f"{number}.json", report)
        yield from ()


def probe_workers(options: PipelineOptions, tasks: int, folder: Path, places: Sequence[str]) -> None:
    """Run a job of some tasks at once; raises UserError unless each worker has this code, sees folder and places."""
    shared = folder / f"probe-{uuid4().hex}{PARTIAL}"
    make_folder(shared)
    try:
        write_json(shared / TOKEN, {})
        pipeline = beam.Pipeline(options=options)
        numbers = pipeline | "List tasks" >> beam.Create(range(tasks)) | "Spread tasks" >> beam.Reshuffle()
        _ = numbers | "Check worker" >> beam.ParDo(ProbeWorker(shared, places))
        # Without a limit, a worker that never starts would hold the job for ever.
        state = pipeline.run().wait_until_finish(duration=1000 * ANSWER_TIMEOUT)
        reports = []
        for number in range(tasks):
            with suppress(FileNotFoundError, DamagedFile):
                reports.append(read_json(shared / f"{number}.json", "host", "code", "places"))
    finally:
        remove(shared)
    hosts = join_names(sorted({report["host"] for report in reports}))
    seen = f" (those on {hosts} do)" if hosts else ""
    if state not in ("DONE", "FAILED") and len(reports) < tasks:
        raise UserError(
            f"Of {tasks} workers {len(reports)} have started within {ANSWER_TIMEOUT} s{seen}: read the logs of the "
            f"cluster, and check that its hosts have topgraft-worker under the same path as this one."
        )
    if len(reports) < tasks:
        raise UserError(
            f"{tasks - len(reports)} of {tasks} workers do not see the folder '{folder}'{seen}: mount it on every host "
            f"of the cluster under this path."
        )
    expected = [*map(describe, places)]
    for report in reports:
        if report["code"] != hash_code():
            raise UserError(
                f"A worker on {report['host']} runs another version of Topgraft than this command: install the same "
                f"one there."
            )
        for place, here, there in zip(places, expected, report["places"], strict=True):
            if here != there:
                raise UserError(
                    f"A worker on {report['host']} finds {there} at '{place}', this command {here}: mount the data on "
                    f"every host of the cluster under this path."
                )


def describe(place: str) -> str:
    """Return words on a file or folder that differ where a path leads to another one."""
    if is_remote(place):
        return "a remote place"
    try:
        if not os.path.isdir(place):
            return f"a file of {os.stat(place).st_size} bytes"
        names = sorted(os.listdir(os.fsencode(place)))
        return f"a folder of {len(names)} entries ({hashlib.sha256(bytes(0).join(names)).hexdigest()[:8]})"
    except OSError:
        return "nothing"


@functools.cache
def hash_code() -> str:
    """Return the first digits of a SHA-256 of Topgraft's source files and Beam's version."""
    root = Path(__file__).parents[2]
    digest = hashlib.sha256(beam.__version__.encode())
    for file in sorted([*root.glob("components/**/*.py"), *root.glob("pipeline/**/*.py")]):
        digest.update(file.relative_to(root).as_posix().encode() + file.read_bytes())
    return digest.hexdigest()[:12]
