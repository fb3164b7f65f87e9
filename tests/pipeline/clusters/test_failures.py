import pytest

from pipeline.clusters.failures import KNOWN, describe_cluster_failure, find_cause

FAILED = "Pipeline job-1 failed in state FAILED: "


def describe(text, *logs):
    return describe_cluster_failure(RuntimeError(FAILED + text), None, "tag", logs)


@pytest.mark.parametrize(
    ("text", "setting"),
    [
        ("java.io.IOException: Insufficient number of network buffers: required 512", "taskmanager.memory.network"),
        ("OutOfMemoryError: Direct buffer memory", "taskmanager.memory.task.off-heap.size"),
        ("java.lang.OutOfMemoryError: Java heap space", "spark.executor.memory"),
        ("java.lang.OutOfMemoryError: Metaspace", "jvm-metaspace"),
        ("NoResourceAvailableException: Could not acquire", "beam.parallelism"),
        ("local class incompatible: stream classdesc serialVersionUID = 1", "job server of the cluster's version"),
    ],
)
def test_a_known_cause_names_the_setting(text, setting):
    assert setting in describe(text)


def test_the_cause_may_stand_in_the_log_of_the_job_server(tmp_path):
    log = tmp_path / "log"
    log.write_text("x\nCaused by: java.lang.OutOfMemoryError: Direct buffer memory\n")
    assert "off-heap" in describe("call is closed", log)


def test_the_error_of_a_worker_goes_before_those_of_java():
    text = (
        "Error received from SDK harness for instruction 3: Traceback (most recent call last):\n"
        '  File "x.py", line 1, in f\n    g()\n'
        "ValueError: no such thing [while running 'Extract shards']\n"
        "Caused by: java.lang.IllegalStateException: call is closed\n"
    )
    assert describe(text) == (
        "The job failed (ValueError: no such thing): correct that, then the same command continues where it stopped."
    )


def test_what_follows_from_another_failure_is_no_cause():
    trace = "Caused by: java.io.IOException: deep\nCaused by: java.lang.IllegalStateException: call already half-closed"
    assert find_cause([trace]) == "java.io.IOException: deep"
    assert find_cause(["Caused by: java.lang.IllegalStateException: call is closed"]) == ""


def test_a_full_disk_is_told_as_in_process():
    text = "Traceback:\nOSError: [Errno 28] No space left on device: '/run/x' [while running 'Extract shards']"
    assert describe(text).startswith("'/run/x' cannot be written (no space left on device)")


def test_an_error_that_is_no_failed_job_stays_as_it_is():
    assert describe_cluster_failure(RuntimeError("a bug"), None, "tag", []) is None
    assert describe_cluster_failure(ValueError(FAILED), None, "tag", []) is None


def test_each_known_sentence_ends_before_what_to_do_next():
    assert all(not sentence.endswith(".") for _, sentence in KNOWN)
