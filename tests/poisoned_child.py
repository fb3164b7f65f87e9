"""The child of CarefulReader where some images harm it, as their names say; tests name this module in its place."""

import os
import signal
import time

from components.ingest import isolated_reader_child as careful_child
from components.ingest import read_images as image_files


def harm(file):
    if "hang" in file.key:
        time.sleep(1000)
    if "killed" in file.key:
        os.kill(os.getpid(), signal.SIGKILL)
    if "raise" in file.key:
        raise MemoryError("no more")


def read_images(files, limits):
    """Read files as image_files does, where none does harm."""
    for file in files:
        harm(file)
    return image_files.read_images(files, limits)


if __name__ == "__main__":
    careful_child.read_images = read_images
    careful_child.main()
