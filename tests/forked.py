"""Commands of topgraft in processes that are forked from one that has loaded all libraries: each starts at once."""

from __future__ import annotations

import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable, Sequence

from storage_emulator import connect_anonymously

from pipeline.cli import main, silence_libraries

# What the commands need, which takes seconds to load; nothing of it has begun to work.
LOADED = [
    *("components.validate.validate", "components.evaluate.evaluate", "components.train.train"),
    *("components.export.formats", "components.curve.page", "components.export.export"),
]


def open_server():
    """Return the context whose processes are forked."""
    silence_libraries(verbose=False)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*LOADED, "pipeline.pipeline", "pipeline.commands", "pipeline.cli"])
    return context


def start(context, words: Sequence[str], log: str, before: Callable[[], None] | None = None):
    """Start a command, its output going to a file; before is called in its process."""
    process = context.Process(target=_run, args=([*words], log, before))
    process.start()
    return process


def _run(words: list[str], log: str, before: Callable[[], None] | None) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    if "STORAGE_EMULATOR_HOST" in os.environ:
        connect_anonymously()
    try:
        if before:
            before()
        status = main(words)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
