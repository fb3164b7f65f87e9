import os
import signal
import threading

import pytest

from pipeline.lost_workers import LostWorker, detect_lost_workers


def die(words):
    """Raise in a thread what Beam's raises for a worker that is gone."""

    def fail():
        raise RuntimeError(words)

    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()


def wait():
    """Wait as a pipeline does for an answer of its worker."""
    threading.Event().wait(30)
    pytest.fail("nothing ended the wait")


def test_a_wait_for_a_worker_that_died_ends(capsys):
    with pytest.raises(LostWorker, match="137"), detect_lost_workers():
        threading.Timer(0.1, die, ["Worker subprocess exited with return code 137"]).start()
        wait()
    assert capsys.readouterr().err == ""


@pytest.fixture
def interruptible():
    """Take interrupts as in a terminal: a shell's background jobs, this one perhaps among them, ignore them."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_of_which_workers_die_as_well_stays_one(interruptible):
    with pytest.raises(KeyboardInterrupt), detect_lost_workers():
        try:
            threading.Timer(0.1, os.kill, [os.getpid(), signal.SIGINT]).start()
            wait()
        finally:
            die("Worker subprocess exited with return code -2")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_other_failures_pass():
    hook, handler = threading.excepthook, signal.getsignal(signal.SIGINT)
    seen = []
    threading.excepthook = seen.append
    try:
        with pytest.raises(ValueError, match="other"), detect_lost_workers():
            die("something else")
            raise ValueError("other")
        assert [str(failure.exc_value) for failure in seen] == ["something else"]
    finally:
        threading.excepthook = hook
    assert signal.getsignal(signal.SIGINT) is handler


def test_another_thread_than_the_main_one_runs_undisturbed():
    entered = []

    def run():
        with detect_lost_workers():
            entered.append(threading.excepthook)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert entered == [threading.excepthook]
