import errno
import os

import pytest

from pipeline.failures import describe_failure


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (
            OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/a/b"),
            "'/a/b' cannot be written (no space left",
        ),
        (RuntimeError("... OSError: [Errno 27] File too large: '/a/b' [while running x]"), "'/a/b' cannot be written"),
        (RuntimeError("/a/b.tfrecord; No space left on device [Op:WriteFile]"), "'/a/b.tfrecord' cannot be written"),
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
