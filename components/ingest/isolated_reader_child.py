"""The child of CarefulReader: python -m components.ingest.isolated_reader_child DESCRIPTOR."""

from __future__ import annotations

import signal
import sys
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

from components.ingest.read_images import read_images

# Behind the limit of who asks: for a child whose parent is gone.
GRACE_SECONDS = 10


def main() -> None:
    """Answer requests until the other end is closed."""
    connection = Connection(int(sys.argv[1]))
    with suppress(OSError):  # where memory runs out, this process is to go, not the run (proc(5))
        Path("/proc/self/oom_score_adj").write_text("1000")
    # Left to the kernel, which ends a process that hangs in C code as well.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection.send("ready")
    with suppress(EOFError):
        while True:
            files, limits, seconds = connection.recv()
            signal.alarm(seconds + GRACE_SECONDS)
            try:
                connection.send(read_images(files, limits))
            except OSError as error:  # of the storage: the run is to end with it, and no image is rejected
                connection.send(OSError(error.errno, error.strerror, error.filename))
            except Exception as error:
                connection.send(f"{type(error).__name__}: {error}"[:200])
            signal.alarm(0)


if __name__ == "__main__":
    main()
