import http.server
import json
import threading
import zipfile

import pytest
from toys import refusal

from pipeline.clusters.checks import check_java, count_slots, find_cluster, list_processes, name_engine
from pipeline.config import BeamSettings

OVERVIEW = {"flink-version": "1.19.3", "slots-available": 3}


@pytest.fixture
def jar(tmp_path):
    path = tmp_path / "job-server.jar"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(".flink-runtime.version.properties", "# comment\nproject.version=1.19.0\n")
        archive.writestr("spark-version-info.properties", "version=3.5.0\nuser=x\n")
    return path


@pytest.fixture
def master():
    """Return a function that starts a server with an answer for each path, and returns its address."""
    servers = []

    def start(answers):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):  # noqa: N802
                self.send_response(200 if self.path in answers else 404)
                self.end_headers()
                self.wfile.write(json.dumps(answers.get(self.path)).encode())

            def log_message(self, *words):
                pass

        servers.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"127.0.0.1:{servers[-1].server_port}"

    yield start
    for server in servers:
        server.shutdown()


def flink(jar, address, **keys):
    return BeamSettings(runner="FlinkRunner", flink_master=address, flink_job_server_jar=str(jar), **keys)


@pytest.fixture(autouse=True)
def java(monkeypatch):
    monkeypatch.setattr("pipeline.clusters.checks.check_java", lambda program: None)


@pytest.mark.parametrize(
    ("keys", "engine"),
    [
        ({"runner": "FlinkRunner"}, "Flink"),
        ({"runner": "sparkrunner"}, "Spark"),
        ({"runner": "PortableRunner", "job_endpoint": "host:8099"}, "Portable"),
        ({"runner": "PortableRunner", "job_endpoint": "embed"}, ""),
        ({"runner": "DirectRunner"}, ""),
        ({"runner": "DataflowRunner"}, ""),
    ],
)
def test_an_engine_is_told_by_its_runner(keys, engine):
    assert name_engine(BeamSettings(**keys)) == engine


def test_only_runners_of_flink_and_spark_have_a_cluster(jar):
    assert find_cluster(BeamSettings()) is None
    cluster = find_cluster(flink(jar, "http://host:8081/"))
    assert (cluster.engine, cluster.address, cluster.version) == ("Flink", "host:8081", "1.19.0")
    keys = {"spark_master_url": "spark://host:7077", "spark_job_server_jar": str(jar)}
    assert find_cluster(BeamSettings(runner="SparkRunner", **keys)).address == "host:7077"


@pytest.mark.parametrize("address", ["", "host", "[local]", "spark://host:7077", "host:port"])
def test_an_address_that_is_none_is_one_sentence(jar, address):
    assert f"'beam.flink_master' is '{address}'" in refusal(find_cluster, flink(jar, address))


def test_a_jar_that_is_missing_or_another_is_one_sentence(tmp_path, jar):
    (tmp_path / "text.jar").write_text("no archive")
    with zipfile.ZipFile(tmp_path / "other.jar", "w") as archive:
        archive.writestr("a", "b")
    assert "which is no file" in refusal(find_cluster, flink(tmp_path / "x.jar", "host:1"))
    for name in ("text.jar", "other.jar"):
        assert "which is not Beam's job server for Flink" in refusal(find_cluster, flink(tmp_path / name, "host:1"))


def test_java_that_does_not_run_is_one_sentence():
    assert "Java does not run here ('no-java'" in refusal(check_java, "no-java")


def test_the_free_slots_are_the_tasks_unless_the_user_asks_for_fewer(jar, master):
    beam = flink(jar, master({"/overview": OVERVIEW}))
    assert count_slots(find_cluster(beam), beam) == 3
    fewer = BeamSettings(**beam.model_dump(), parallelism=2)
    assert count_slots(find_cluster(fewer), fewer) == 2
    more = BeamSettings(**beam.model_dump(), parallelism=4)
    assert "has 3 free slots, and beam.parallelism asks for 4" in refusal(count_slots, find_cluster(more), more)


def test_a_cluster_without_slots_of_another_version_or_without_answer_is_one_sentence(jar, master):
    for overview, words in [
        ({**OVERVIEW, "slots-available": 0}, "has 0 free slots, and a job needs 1"),
        ({**OVERVIEW, "flink-version": "1.20.1"}, "runs Flink 1.20.1, the job server 'job-server.jar' is for 1.19.0"),
    ]:
        beam = flink(jar, master({"/overview": overview}))
        assert words in refusal(count_slots, find_cluster(beam), beam)
    beam = flink(jar, "127.0.0.1:9")
    assert "does not answer at http://127.0.0.1:9/overview" in refusal(count_slots, find_cluster(beam), beam)


def test_taskmanagers_are_listed_by_their_identities(jar, master):
    managers = {"taskmanagers": [{"id": "b"}, {"id": "a"}]}
    assert list_processes(find_cluster(flink(jar, master({"/taskmanagers": managers})))) == ["a", "b"]
