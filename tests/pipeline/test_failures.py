import errno
import os

import apache_beam as beam
import pytest
import tensorflow as tf
from apache_beam.io.filesystem import BeamIOError
from apache_beam.options.pipeline_options import PipelineOptions

from pipeline.cli import main
from pipeline.failures import describe_failure

TRACEBACK = """Traceback (most recent call last):
  File "apache_beam/runners/common.py", line 685, in apache_beam.runners.common.SimpleInvoker.invoke_process
  File "x.py", line 5, in write
    raise OSError(errno.ENOSPC, "No space left on device")
"""
TENSORFLOW = "tensorflow.python.framework.errors_impl"


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (
            OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/a/b"),
            "'/a/b' cannot be written (no space left",
        ),
        # What Beam 2.72 hands on of a worker in this process, and of one of its own.
        (RuntimeError("OSError: [Errno 27] File too large: '/a/b' [while running 'W']"), "'/a/b' cannot be written"),
        (
            RuntimeError(
                f"{TRACEBACK}RuntimeError: OSError: [Errno 28] No space left on device: '/a/b' [while running 'W']\n"
            ),
            "'/a/b' cannot be written",
        ),
        (
            RuntimeError(
                f"{TRACEBACK}RuntimeError: PermissionError: [Errno 13] Permission denied: '/a/b' [while running 'W']\n"
            ),
            "'/a/b' cannot be read or written",
        ),
        (
            RuntimeError(
                f"{TRACEBACK}RuntimeError: {TENSORFLOW}.ResourceExhaustedError: {{{{node x}}}} /a/b.tfrecord; "
                "No space left on device [Op:WriteFile] [while running 'W']\n"
            ),
            "'/a/b.tfrecord' cannot be written",
        ),
        (
            tf.errors.ResourceExhaustedError(None, None, "/a/b.tfrecord; No space left on device"),
            "'/a/b.tfrecord' cannot be written",
        ),
        (
            OSError("Forbidden: https://storage/b/o\ncaller has no access"),
            "Cloud Storage refuses (Forbidden: https://stor",
        ),
        (
            RuntimeError(
                f"{TRACEBACK}RuntimeError: OSError: Forbidden: https://storage/b/o\\ncaller has [while running 'W']\n"
            ),
            "Cloud Storage refuses (Forbidden: https://storage/b/o): check",
        ),
        (
            tf.errors.PermissionDeniedError(None, None, "{{node Read}} Error code: 403 [Op:IteratorGetNext]"),
            "Cloud Storage refuses (Error code: 403 [Op:IteratorGetNext]): check",
        ),
        (
            RuntimeError(f"{TRACEBACK}gcsfs.retry.HttpError: Backend Error, 503 [while running 'W']\n"),
            "Cloud Storage refuses (Backend Error, 503): check",
        ),
        (
            RuntimeError(
                f"{TRACEBACK}google.api_core.exceptions.Forbidden: 403 GET https://storage/b: no [while running 'W']\n"
            ),
            "Cloud Storage refuses (403 GET https://storage/b: no): check",
        ),
        (BeamIOError("Match failed", {"gs://b/x": "no"}), "Beam cannot read or write files (Match failed with"),
        (
            RuntimeError(f"{TRACEBACK}apache_beam.io.filesystem.BeamIOError: no src. src: /a, dst: /b [while running"),
            "Beam cannot read or write files (no src. src: /a, dst: /b): check",
        ),
        (OSError(errno.EROFS, os.strerror(errno.EROFS)), "A file cannot be written (read-only file system)"),
        (PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/a/b"), "'/a/b' cannot be read or written"),
    ],
)
def test_what_the_file_system_says_becomes_a_sentence(error, found):
    assert describe_failure(error).startswith(found)


def test_the_error_below_an_error_is_found():
    try:
        try:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/a/b")
        except OSError as error:
            raise ValueError("no more") from error
    except ValueError as error:
        assert "'/a/b' cannot be written" in describe_failure(error)


def test_other_errors_are_left_alone():
    assert describe_failure(ValueError("wrong")) is None
    assert describe_failure(FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "/a/b")) is None


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("the model server said: Permission denied"),
        ValueError("No space left on device"),
        RuntimeError("user says Permission denied [while running 'Write']"),
        RuntimeError(f"{TRACEBACK}RuntimeError: user says Input/output error [while running 'Write']\n"),
        RuntimeError("ValueError: OSError: [Errno 28] No space left on device [while running 'Write']"),
    ],
)
def test_an_error_that_only_quotes_the_file_system_keeps_its_traceback(error, tmp_path, monkeypatch):
    assert describe_failure(error) is None

    def fail(options):
        raise error

    monkeypatch.setattr("pipeline.commands.run_command", fail)
    with pytest.raises(type(error)) as raised:
        main(["run", str(tmp_path / "c.yaml")])
    assert raised.value is error


def test_an_error_that_was_put_aside_is_not_the_reason():
    try:
        try:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/a/b")
        except OSError:
            raise ValueError("another") from None
    except ValueError as error:
        assert describe_failure(error) is None


@pytest.mark.parametrize("flags", [[], ["--direct_running_mode=multi_processing", "--direct_num_workers=1"]])
@pytest.mark.parametrize("quoted", [False, True])
def test_what_beam_hands_on_of_a_worker_is_told_apart(flags, quoted, tmp_path):
    def write(value):
        if quoted:
            raise RuntimeError(f"{value}: {os.strerror(errno.ENOSPC)}")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), value)

    options = PipelineOptions(["--runner=FnApiRunner", *flags])
    with pytest.raises(RuntimeError) as raised, beam.Pipeline(options=options) as pipeline:
        _ = pipeline | beam.Create(["/a/b"]) | "Write" >> beam.Map(write)
    said = describe_failure(raised.value)
    assert said is None if quoted else said.startswith("'/a/b' cannot be written (no space left")
