import gzip
import hashlib
import json
import os
import random
import re
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from toys import refusal

from components.storage import downloads
from components.storage.downloads import Remote, cache_folder, fetch
from components.storage.files import PARTIAL

CONTENT = random.Random(0).randbytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
HALF = len(CONTENT) // 2
ALTERED = CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])


class Site(ThreadingHTTPServer):
    """Serves one file; `faults` says what goes wrong with the first requests, `ranges` keeps what they asked for."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.headers, self.faults, self.ranges, self.seconds = CONTENT, {"ETag": '"one"'}, [], [], 0.0

    def handle_error(self, request, client_address):
        """Keep quiet about clients that hang up."""

    def remote(self, size=None, sha256=None):
        return Remote(f"http://127.0.0.1:{self.server_port}/file.bin", "file.bin", size, sha256)


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        """Keep quiet."""

    def do_GET(self):  # noqa: N802
        site = self.server
        asked, condition = self.headers["Range"], self.headers["If-Range"]
        site.ranges.append((asked, condition))
        fault = site.faults.pop(0) if site.faults else None
        time.sleep(site.seconds)
        if isinstance(fault, int):
            return self.send_error(fault)
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and fault != "ignore range" else 0
        if condition not in (None, *site.headers.values()) and fault != "ignore condition":
            start = 0
        if start >= len(site.content):
            return self.send_error(416)
        body = site.content[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(site.content) - 1}/{len(site.content)}")
        for name, value in site.headers.items():
            self.send_header(name, value)
        if fault != "no length":
            self.send_header("Content-Length", str(len(body) + (10 if fault == "lie" else 0)))
        self.end_headers()
        self.wfile.write(body[: HALF if fault in ("cut", "stall", "no length") else None])
        self.wfile.flush()
        if fault == "stall":
            time.sleep(3)
        return None


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TOPGRAFT_CACHE", str(tmp_path))
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(downloads, "FIRST_DELAY", 0)
    return tmp_path / "downloads"


@pytest.fixture
def site(cache):
    server = Site()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    thread.join(10)
    server.server_close()


def ignore(done, total):
    """Report to nobody."""


def names(folder: Path) -> set[str]:
    """Return what lies in a folder, less the locks."""
    return {path.name for path in folder.iterdir() if path.suffix != ".lock"}


@pytest.mark.parametrize("known", [True, False])
def test_a_file_is_downloaded_once_and_progress_is_reported(site, cache, known):
    remote = site.remote(len(CONTENT), SHA256) if known else site.remote()
    reports = []
    path = fetch(remote, lambda done, total: reports.append((done, total)))
    assert path == cache / "file.bin" == cache_folder() / "downloads" / "file.bin"
    assert path.read_bytes() == CONTENT
    assert reports[0] == (0, len(CONTENT))
    assert reports[-1] == (len(CONTENT), len(CONTENT))
    assert reports == sorted(reports)
    assert len(reports) > 3
    assert fetch(remote, ignore) == path
    assert site.ranges == [(None, None)]
    assert names(cache) == {"file.bin", "file.bin.sha256"}


def test_an_unknown_total_is_reported_as_none(site, cache):
    site.faults, site.content = ["no length"], CONTENT[:HALF]
    totals = []
    assert fetch(site.remote(), lambda done, total: totals.append(total)).read_bytes() == CONTENT[:HALF]
    assert set(totals) == {None}


def test_a_gzip_file_that_the_server_calls_encoded_is_kept_as_it_is(site, cache):
    site.content, site.headers = gzip.compress(CONTENT), {"Content-Encoding": "x-gzip"}
    assert fetch(site.remote(), ignore).read_bytes() == site.content


@pytest.mark.parametrize("headers", [{"ETag": '"one"'}, {"Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}])
def test_a_break_is_resumed_on_condition_that_the_file_is_the_same(site, cache, headers):
    site.faults, site.headers = ["cut"], headers
    reports = []
    path = fetch(site.remote(), lambda done, total: reports.append(done))
    assert path.read_bytes() == CONTENT
    assert site.ranges == [(None, None), (f"bytes={HALF}-", *headers.values())]
    assert reports.count(0) == 1
    assert names(cache) == {"file.bin", "file.bin.sha256"}


def test_a_break_without_content_length_is_noticed_by_the_known_size(site, cache):
    site.faults = ["no length"]
    assert fetch(site.remote(len(CONTENT)), ignore).read_bytes() == CONTENT
    assert site.ranges[1][0] == f"bytes={HALF}-"


def test_a_later_process_resumes_what_an_earlier_one_gave_up(site, cache):
    site.faults = ["cut", 500, 500, 500, 500]
    assert "status 500" in refusal(fetch, site.remote(), ignore)
    assert (cache / f"file.bin{PARTIAL}").read_bytes() == CONTENT[:HALF]
    assert fetch(site.remote(), ignore).read_bytes() == CONTENT
    assert site.ranges[-1] == (f"bytes={HALF}-", '"one"')


@pytest.mark.parametrize("faults", [[], ["ignore condition"]])
def test_a_file_that_changed_on_the_server_after_a_break_is_fetched_anew(site, cache, faults):
    site.faults = ["cut", 500, 500, 500, 500]
    refusal(fetch, site.remote(), ignore)
    site.content, site.headers, site.faults = CONTENT[::-1], {"ETag": '"two"'}, faults
    assert fetch(site.remote(), ignore).read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize("headers", [{}, {"ETag": 'W/"weak"'}])
def test_without_etag_date_or_sha256_a_break_starts_again(site, cache, headers):
    site.faults, site.headers = ["cut"], headers
    assert fetch(site.remote(), ignore).read_bytes() == CONTENT
    assert site.ranges == [(None, None), (None, None)]


def test_without_etag_and_date_a_break_is_resumed_if_the_sha256_is_known(site, cache):
    site.faults, site.headers = ["cut"], {}
    assert fetch(site.remote(sha256=SHA256), ignore).read_bytes() == CONTENT
    assert site.ranges[1] == (f"bytes={HALF}-", None)


def test_a_server_that_ignores_ranges_is_read_from_the_start(site, cache):
    site.faults = ["cut", "ignore range"]
    assert fetch(site.remote(), ignore).read_bytes() == CONTENT
    assert site.ranges[1][0] == f"bytes={HALF}-"


def test_a_range_that_cannot_be_satisfied_starts_again(site, cache):
    site.faults = ["cut", 416]
    assert fetch(site.remote(), ignore).read_bytes() == CONTENT
    assert [asked for asked, _ in site.ranges] == [None, f"bytes={HALF}-", None]


def test_a_partial_file_longer_than_the_true_size_starts_again(site, cache):
    cache.mkdir()
    (cache / f"file.bin{PARTIAL}").write_bytes(CONTENT + b"more")
    assert fetch(site.remote(len(CONTENT), SHA256), ignore).read_bytes() == CONTENT


def test_a_whole_partial_file_needs_no_request(site, cache):
    cache.mkdir()
    (cache / f"file.bin{PARTIAL}").write_bytes(CONTENT)
    assert fetch(site.remote(len(CONTENT), SHA256), ignore).read_bytes() == CONTENT
    assert site.ranges == []


def test_a_stalled_server_is_left_and_asked_again(site, cache, monkeypatch):
    monkeypatch.setattr(downloads, "TIMEOUTS", (1, 0.5))
    site.faults = ["stall"]
    assert fetch(site.remote(), ignore).read_bytes() == CONTENT
    assert len(site.ranges) == 2


def test_a_content_length_beyond_the_content_is_never_taken_for_a_whole_file(site, cache):
    site.faults = ["lie"] * 10
    assert "file.bin" in refusal(fetch, site.remote(), ignore)
    assert not (cache / "file.bin").exists()


def test_server_errors_are_waited_out(site, cache):
    site.faults = [500, 503]
    assert fetch(site.remote(), ignore).read_bytes() == CONTENT


def test_delays_double(site, cache, monkeypatch):
    delays = []
    monkeypatch.setattr(downloads, "FIRST_DELAY", 1)
    monkeypatch.setattr(downloads.time, "sleep", delays.append)
    site.faults = [500] * 5
    refusal(fetch, site.remote(), ignore)
    assert [delay for delay in delays if delay] == [1, 2, 4, 8]


@pytest.mark.parametrize("status", [403, 404])
def test_a_missing_file_is_final(site, cache, status):
    site.faults = [status]
    message = refusal(fetch, site.remote(), ignore)
    assert f"status {status}" in message
    assert site.remote().url in message
    assert str(cache / "file.bin") in message
    assert len(site.ranges) == 1


def test_without_network_the_message_says_where_the_file_can_be_put(cache):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/file.bin"
    message = refusal(fetch, Remote(url, "file.bin", None, None), ignore)
    assert url in message
    assert str(cache / "file.bin") in message
    assert "Connection refused" in message


@pytest.mark.parametrize("size", [len(CONTENT) - 1, len(CONTENT) // 4, len(CONTENT) + 1])
def test_a_download_of_another_size_is_deleted(site, cache, size):
    assert f"expected {size}, and was deleted" in refusal(fetch, site.remote(size), ignore)
    assert names(cache) == set()


def test_a_download_beyond_the_known_size_is_broken_off(site, cache):
    reports = []
    refusal(fetch, site.remote(10), lambda done, total: reports.append(done))
    assert reports[-1] < len(CONTENT)


def test_a_download_with_another_sha256_is_deleted(site, cache):
    site.content = ALTERED
    found = hashlib.sha256(site.content).hexdigest()
    message = refusal(fetch, site.remote(len(CONTENT), SHA256), ignore)
    assert f"SHA-256 {found}, expected {SHA256}, and was deleted" in message
    assert names(cache) == set()


def test_an_unknown_sha256_is_recorded_and_later_alterations_found(site, cache):
    path = fetch(site.remote(), ignore)
    assert json.loads((cache / "file.bin.sha256").read_text())["sha256"] == SHA256
    path.write_bytes(ALTERED)
    assert f"'{path}' has SHA-256" in refusal(fetch, site.remote(), ignore)
    assert names(cache) == {"file.bin.sha256"}
    site.content = CONTENT[::-1]
    assert str(cache / "file.bin.sha256") in refusal(fetch, site.remote(), ignore)
    site.content = CONTENT
    assert fetch(site.remote(), ignore).read_bytes() == CONTENT


def test_a_record_of_another_version_does_not_vouch_for_the_file(site, cache):
    fetch(site.remote(), ignore)
    assert "SHA-256" in refusal(fetch, site.remote(sha256="0" * 64), ignore)


def test_a_damaged_record_is_made_anew(site, cache):
    path = fetch(site.remote(), ignore)
    for damage in (b"", b"[]", b"\xff"):
        (cache / "file.bin.sha256").write_bytes(damage)
        assert fetch(site.remote(), ignore) == path
        assert json.loads((cache / "file.bin.sha256").read_text())["sha256"] == SHA256


def test_a_file_is_summed_again_only_if_it_looks_changed(site, cache, monkeypatch):
    path = fetch(site.remote(), ignore)
    sums, file_digest = [], hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda file, name: sums.append(file.name) or file_digest(file, name))
    fetch(site.remote(), ignore)
    assert sums == []
    os.utime(path, (1, 1))
    fetch(site.remote(), ignore)
    fetch(site.remote(), ignore)
    assert sums == [str(path)]


@pytest.mark.parametrize("known", [True, False])
def test_a_file_put_by_hand_is_used_without_any_request(site, cache, known):
    cache.mkdir()
    (cache / "file.bin").write_bytes(CONTENT)
    assert fetch(site.remote(len(CONTENT), SHA256) if known else site.remote(), ignore).read_bytes() == CONTENT
    assert site.ranges == []
    assert names(cache) == {"file.bin", "file.bin.sha256"}


@pytest.mark.parametrize("known", [{"size": 3}, {"sha256": SHA256}])
def test_a_wrong_file_put_by_hand_is_deleted(site, cache, known):
    cache.mkdir()
    (cache / "file.bin").write_bytes(b"something else")
    assert "was deleted" in refusal(fetch, site.remote(**known), ignore)
    assert names(cache) == set()
    assert site.ranges == []


def test_a_cache_that_cannot_be_written_is_named(site, cache):
    cache.write_text("a file where the folder should be")
    message = refusal(fetch, site.remote(), ignore)
    assert str(cache / "file.bin") in message
    assert "TOPGRAFT_CACHE" in message


def test_two_processes_at_once_share_one_download(site, cache):
    site.seconds = 1.0
    code = (
        "import sys; from components.storage.downloads import *\n"
        "print(fetch(Remote(sys.argv[1], 'file.bin', None, None), lambda done, total: None))"
    )
    command = [sys.executable, "-c", code, site.remote().url]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate(timeout=15)[0].strip() for process in both] == [str(cache / "file.bin")] * 2
    assert (cache / "file.bin").read_bytes() == CONTENT
    assert len(site.ranges) == 1
