"""Every request of a small run in Cloud Storage refused, one at a time: once, then each time; the run must notice.

    python benchmarks/cloud_faults.py [--stages ingest extract] [--places 10] [--seed 0]

Cloud Storage is an emulator, in this process. A place is a kind of request (list, look at, read, write, copy, delete)
for one object in one stage. Places are those of a run that nothing disturbs; images of the data set count as one
object. A request fails with 503 once, which clients try again, with 403 once, or with 403 each time. A stage with a
fault must end with an error, after which the same command gives the right result, or with the right result: that of
the undisturbed run. It prints a line per fault and a table, and writes benchmarks/cloud_faults.json.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import yaml
from faults import is_same, list_left_over, read_results
from gcp_storage_emulator import server
from storage_faults import LOADED, STAGES, list_faults, paint, write_network

from pipeline.cli import silence_libraries

sys.path.append(str(Path(__file__).parents[1] / "tests"))
import forked
from storage_emulator import BUCKET, environment, mend

SECONDS = 300
# The status of the answer, and whether only the first request of the place gets it.
MODES = {"503 once": (503, True), "403 once": (403, True), "403 always": (403, False)}
# What differs from run to run in the names of objects: times, checksums, random names.
RANDOM_PART = re.compile(
    r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{8,}|\d{6,}|(?<=\.)[a-z0-9_]{8}(?=\.partial)|temp-[^/]*"
)


class Request(NamedTuple):
    """A kind of request, and the object that it names, with '#' for what is random in it."""

    operation: str
    path: str


class Storage:
    """The emulator: it records the requests, refuses those of one place, and can go back to a former content."""

    def __init__(self) -> None:
        mend()
        self.seen: dict[Request, None] = {}
        self.refused, self.status, self.once, self.hits = Request("", ""), 0, True, 0
        handle = server.Router.handle

        def refuse_or_handle(router: Any, method: str) -> None:
            handler = router._request_handler
            request = describe(handler, method)
            self.seen.setdefault(request, None)
            if request == self.refused and not (self.once and self.hits):
                self.hits += 1
                answer = server.Response(handler)
                answer.status = server.HTTPStatus(self.status)
                answer.json({"error": {"code": self.status, "message": "refused by the benchmark"}})
                answer.close()
                return
            handle(router, method)

        server.Router.handle = refuse_or_handle
        self.emulator = server.create_server("localhost", 0, in_memory=True, default_bucket=BUCKET)
        self.emulator._api.daemon = True  # else this process would not end
        self.emulator.start()
        self.port: int = self.emulator._api._httpd.server_address[1]

    def save(self) -> tuple[dict[str, bytes], dict[str, Any]]:
        """Return the content of all objects, and what the emulator knows of them."""
        storage = self.emulator._storage
        return dict(storage._store._files), {name: dict(one) for name, one in storage.objects.items()}

    def restore(self, saved: tuple[dict[str, bytes], dict[str, Any]]) -> None:
        """Go back to a former content."""
        files, objects = saved
        storage = self.emulator._storage
        storage._store._files = dict(files)
        storage.objects = {name: dict(one) for name, one in objects.items()}
        storage.resumable = {}

    def refuse(self, request: Request, status: int, once: bool) -> None:
        """Refuse the requests of a place from now on."""
        self.refused, self.status, self.once, self.hits = request, status, once, 0

    def copy_run(self, folder: Path) -> Path:
        """Write the run directory to a local folder."""
        run = folder / "run"
        shutil.rmtree(run, ignore_errors=True)
        for name, content in self.save()[0].items():
            if name.startswith(f"{BUCKET}/run/") and not name.endswith("/"):
                file = run / name.removeprefix(f"{BUCKET}/run/")
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content)
        return run


def describe(handler: Any, method: str) -> Request:
    """Return the place of a request; the body of an upload is read, and put back."""
    address = urlsplit(handler.path)
    query = parse_qs(address.query)
    path = address.path
    found = re.search(r"/o/(.+)$", path)
    if method in ("POST", "PUT", "PATCH"):
        name = query.get("name", [""])[0]
        if found and "To/" in path:
            return make_request("copy", re.split("/(?:copyTo|rewriteTo)/", found[1])[0])
        if not name:
            length = int(handler.headers.get("Content-Length") or 0)
            body = handler.rfile.read(length)
            handler.rfile = Replayed(body)
            named = re.search(rb'"name": *"([^"]+)"', body[:4000])
            name = named[1].decode() if named else "(part of an upload)"
        return make_request("write", name)
    if method == "DELETE":
        return make_request("delete", found[1] if found else path)
    if found:
        return make_request("read" if query.get("alt") == ["media"] else "look at", found[1])
    if path.endswith("/o"):
        return make_request("list", query.get("prefix", [""])[0])
    return make_request("read", path.removeprefix(f"/{BUCKET}/"))


class Replayed:
    """A body that was read already, for the emulator to read again."""

    def __init__(self, body: bytes):
        self._rest = body

    def read(self, size: int = -1) -> bytes:
        taken = self._rest if size < 0 else self._rest[:size]
        self._rest = self._rest[len(taken) :]
        return taken

    def readline(self, size: int = -1) -> bytes:
        end = self._rest.find(b"\n") + 1 or len(self._rest)
        return self.read(end if size < 0 else min(end, size))

    def close(self) -> None:
        self._rest = b""


def make_request(operation: str, name: str) -> Request:
    """Return the place of an operation on an object."""
    return Request(operation, RANDOM_PART.sub("#", unquote(name)))


class Judgement(NamedTuple):
    """How a stage with a fault came out: right, error, traceback (an error without a sentence), not met, wrong."""

    outcome: str
    detail: str


class Bench(NamedTuple):
    """A folder for outputs, the emulator, and the context whose processes are forked with all libraries loaded."""

    folder: Path
    storage: Storage
    context: multiprocessing.context.BaseContext

    def call(self, stage: str) -> tuple[int | None, str]:
        """Run one stage; return the status and the output."""
        log = self.folder / "log"
        words = ["run", f"gs://{BUCKET}/c.yaml", "--only", stage]
        log.unlink(missing_ok=True)
        process = forked.start(self.context, words, str(log))
        process.join(SECONDS)
        if process.is_alive():
            process.kill()
            process.join()
        return process.exitcode, log.read_text(errors="replace")

    def compare(self, undisturbed: dict[str, object]) -> str:
        """Return the first difference of the run from the undisturbed one, '' where there is none."""
        run = self.storage.copy_run(self.folder)
        found = read_results(run)
        if found.keys() != undisturbed.keys():
            return f"files differ: {sorted(found.keys() ^ undisturbed.keys())[:5]}"
        differs = [name for name, value in undisturbed.items() if not is_same(found[name], value)]
        return f"{differs[0]} differs" if differs else list_left_over(run)


def judge(bench: Bench, stage: str, undisturbed: dict[str, object]) -> Judgement:
    """Run a stage while the storage refuses a place, and compare what it leaves with the undisturbed result."""
    status, said = bench.call(stage)
    hits = bench.storage.hits
    bench.storage.refuse(Request("", ""), 0, True)
    if status in (0, 3):
        found = bench.compare(undisturbed)
        return Judgement("wrong", found) if found else Judgement("right" if hits else "not met", "")
    if status == -9:
        return Judgement("wrong", f"did not end within {SECONDS} s")
    last = next((line for line in reversed(said.splitlines()) if line.strip()), "")
    again, more = bench.call(stage)
    found = more[-300:] if again not in (0, 3) else bench.compare(undisturbed)
    if found:
        return Judgement("wrong", f"after an error ({last[:200]}), run again: {found}")
    return Judgement("error" if status == 2 and "Traceback" not in said else "traceback", last[:200])


def prepare(folder: Path, storage: Storage) -> None:
    """Put images, a network and a config into the bucket."""
    paint(folder / "images")
    write_network(folder / "toy.pb")
    config = {
        "name": "t",
        "output_dir": f"gs://{BUCKET}/run",
        "data": {"path": f"gs://{BUCKET}/images"},
        "backbone": {"frozen_graph": f"gs://{BUCKET}/toy.pb", "input": "input", "bottleneck": "features"},
        "train": {"epochs": 3, "batch_size": 16, "learning_rate": 0.05},
        "evaluate": {"thresholds": {"accuracy": 0.1}},
    }
    (folder / "c.yaml").write_text(yaml.safe_dump(config))
    from components.storage.places import as_path, upload

    for name in ("images", "toy.pb", "c.yaml"):
        upload(folder / name, as_path(f"gs://{BUCKET}/{name}"))


def main() -> None:
    """Print and write all figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stages", nargs="+", default=STAGES, choices=STAGES)
    parser.add_argument("--places", type=int, help="how many places of a stage, drawn at random (default all)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    silence_libraries(verbose=False)
    rows: list[dict[str, object]] = []
    counts: Counter[tuple[str, str]] = Counter()
    found, tried = 0, 0
    with tempfile.TemporaryDirectory() as temporary:
        folder, storage = Path(temporary), Storage()
        os.environ |= {**environment(storage.port), "TOPGRAFT_CACHE": str(folder / "cache")}
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([*LOADED])
        bench = Bench(folder, storage, context)
        prepare(folder, storage)
        for stage in STAGES:
            before = storage.save()
            storage.seen.clear()
            status, said = bench.call(stage)
            if status not in (0, 3):
                raise SystemExit(said)
            after, undisturbed = storage.save(), read_results(storage.copy_run(folder))
            places = list_faults([*storage.seen])
            found += len(places)
            if options.places is not None:
                places = random.Random(options.seed).sample(places, min(options.places, len(places)))
            for place in places if stage in options.stages else ():
                tried += 1
                for name, (answer, once) in MODES.items():
                    started = time.perf_counter()
                    storage.restore(before)
                    storage.refuse(place, answer, once)
                    judged = judge(bench, stage, undisturbed)
                    counts[name, judged.outcome] += 1
                    rows.append({"stage": stage, "fault": name, **place._asdict(), **judged._asdict()})
                    line = f"{judged.outcome:9} {name:10} {stage:8} {place.operation:8} {place.path}"
                    print(f"{line}  {time.perf_counter() - started:.1f} s  {judged.detail}", flush=True)
                    Path(__file__).with_suffix(".json").write_text(json.dumps(rows, indent=2) + "\n")
            storage.restore(after)
    print(f"{found} places, {tried} of them tried")
    for (name, outcome), count in sorted(counts.items()):
        print(f"{name:10} {outcome:9} {count}")
    raise SystemExit(any(outcome == "wrong" for _, outcome in counts))


if __name__ == "__main__":
    main()
