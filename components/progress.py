"""Progress bars of one run, on stderr, from the epochs done or the bytes that have landed in a folder."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

POLL_SECONDS = 0.5


class Progress:
    """One bar a stage; an unknown total is shown as a moving bar."""

    def __init__(self, console: Console):
        columns = (
            TextColumn("{task.description:9}"),
            BarColumn(),
            TextColumn("{task.fields[done]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self._bars = Bars(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task: TaskID | None = None

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Show a bar for one stage while the block runs."""
        with self._bars:
            self._task = self._bars.add_task(name, total=None, done="")
            try:
                yield
            finally:
                self._bars.remove_task(self._task)
                self._task = None

    def report(self, done: float, total: float, unit: str) -> None:
        """Set the current stage's bar to done of total."""
        if self._task is not None:
            self._bars.update(
                self._task, completed=min(done, total), total=total, done=f"{done:,.0f}/{total:,.0f} {unit}"
            )

    def report_bytes(self, done: int, total: int | None) -> None:
        """Set the current stage's bar to the bytes of a download."""
        self.report(done / 2**20, max(total or done, 1) / 2**20, "MiB")

    @contextmanager
    def watch_folder(self, folder: Path, expected_bytes: int, items: int, unit: str) -> Iterator[None]:
        """While the block runs, take the bytes written directly below a folder as the share of items done."""
        started, ended = time.time(), threading.Event()

        def poll() -> None:
            while not ended.wait(POLL_SECONDS):
                written = _bytes_written(folder, started)
                self.report(min(1.0, written / max(expected_bytes, 1)) * items, items, unit)

        watcher = threading.Thread(target=poll, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()


def _bytes_written(folder: Path, since: float) -> int:
    total = 0
    for file in folder.glob("*.tfrecord*"):
        try:
            status = file.stat()
        except FileNotFoundError:  # renamed between the listing and here
            continue
        if status.st_mtime >= since:
            total += status.st_size
    return total
