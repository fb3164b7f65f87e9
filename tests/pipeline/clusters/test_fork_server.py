import os
import signal
import subprocess
import sys
import time

import pytest

SERVER = """
import sys
from pathlib import Path
import pipeline.clusters.fork_server as forks

def work(words):
    import os, time
    print(*words, os.environ["COLOUR"], os.getpid(), flush=True)
    if "fail" in words:
        raise ValueError("no such shard")
    if "wait" in words:
        time.sleep(600)

forks.MODULES, forks.IDLE_TIMEOUT = ("json",), 15
forks.serve_forks(Path(sys.argv[1]), work)
"""
CLIENT = "import os, sys; from pipeline.clusters.fork_server import run_forked; os._exit(run_forked(sys.argv[1:]))"


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A server whose workers print their words, a variable and their number."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    command = "import pipeline.clusters.fork_server as f; print(f.locate_server())"
    place = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True).stdout.strip()
    process = subprocess.Popen([sys.executable, "-c", SERVER, place], stderr=subprocess.PIPE, text=True)
    while not os.path.exists(place):
        time.sleep(0.05)
    yield process
    process.kill()


def start(*words):
    environment = {**os.environ, "COLOUR": "cyan"}
    return subprocess.Popen([sys.executable, "-c", CLIENT, *words], stdout=subprocess.PIPE, text=True, env=environment)


def is_alive(number):
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_worker_has_words_environment_and_output_of_its_caller_and_returns_a_status(server):
    ok, failed = start("a", "b"), start("fail")
    assert ok.communicate()[0].split()[:3] == ["a", "b", "cyan"]
    assert failed.communicate()[0].split()[:2] == ["fail", "cyan"]
    assert (ok.returncode, failed.returncode) == (0, 1)


def test_a_worker_ends_with_its_caller_and_the_caller_with_its_worker(server):
    first, second = start("wait"), start("wait")
    workers = [int(caller.stdout.readline().split()[-1]) for caller in (first, second)]
    first.kill()
    os.kill(workers[1], signal.SIGKILL)
    assert second.wait(20) == 1
    while is_alive(workers[0]):
        time.sleep(0.1)


def test_a_server_ends_when_it_is_idle_and_removes_its_socket(server, tmp_path):
    assert start("a").wait() == 0
    assert server.wait(60) == 0
    assert not [path for path in tmp_path.rglob("*") if path.is_socket()]
