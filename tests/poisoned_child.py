"""The child of IsolatedReader where the names of some images say how they harm it; tests start this module instead."""

import os
import signal
import sys
import time
from multiprocessing.connection import Connection

from components.ingest import isolated_reader, read_images


def harm(file):
    if "hang" in file.key:
        time.sleep(1000)
    if "killed" in file.key:
        os.kill(os.getpid(), signal.SIGKILL)
    if "raise" in file.key:
        raise MemoryError("no more")


def harm_and_read(files, limits):
    """Read files as read_images does, after the harm of each."""
    for file in files:
        harm(file)
    return read_images.read_images(files, limits)


if __name__ == "__main__":
    isolated_reader.read_images = harm_and_read
    isolated_reader.answer_requests(Connection(int(sys.argv[1])))
