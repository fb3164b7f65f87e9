"""Progress bars of one command, on stderr, from what is done or the bytes that have landed in a folder."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, Task, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.text import Text

from components.storage.places import Status, list_files, storage_errors

T = TypeVar("T")

POLL_SECONDS = 0.5


class RateColumn(ProgressColumn):
    """How many items a second have been done: of late, or on the whole where their number is not known."""

    def render(self, task: Task) -> Text:
        """Return the rate with its unit, nothing while it is not known."""
        rate, unit, elapsed = task.speed, task.fields["unit"], task.elapsed or 0.0
        if task.total is None:  # taken by the batch, of which the first would seem to take no time
            rate = task.completed / elapsed if elapsed >= 1 else None
        return Text(f"{rate:,.{0 if rate >= 10 else 1}f} {unit}/s" if rate and unit else "", "progress.data.speed")


class Progress:
    """One bar a stage; an unknown total is shown as a moving bar."""

    def __init__(self, console: Console):
        columns = (
            TextColumn("{task.description:9}"),
            BarColumn(),
            TextColumn("{task.fields[done]}"),
            RateColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self._bars = Bars(*columns, console=console, transient=True, disable=console.quiet or not console.is_terminal)
        self._task: TaskID | None = None

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Show a bar for one stage while the block runs."""
        with self._bars:
            self._task = self._bars.add_task(name, total=None, done="", unit="")
            try:
                yield
            finally:
                self._bars.remove_task(self._task)
                self._task = None

    def report(self, done: float, total: float, unit: str) -> None:
        """Set the current stage's bar to done of total."""
        if self._task is not None:
            text = f"{done:,.0f}/{total:,.0f} {unit}"
            self._bars.update(self._task, completed=min(done, total), total=total, done=text, unit=unit)

    def count(self, items: Iterable[T], unit: str) -> Iterator[T]:
        """Yield items, each counted in the current stage's bar; how many there are is not known."""
        for number, item in enumerate(items, 1):
            yield item
            if self._task is not None:
                self._bars.update(self._task, completed=number, done=f"{number:,} {unit}", unit=unit)

    def report_bytes(self, done: int, total: int | None) -> None:
        """Set the current stage's bar to the bytes of a download."""
        self.report(done / 2**20, max(total or done, 1) / 2**20, "MiB")

    @contextmanager
    def watch_folder(self, folder: Path, expected_bytes: int, items: int, unit: str) -> Iterator[None]:
        """While the block runs, take the bytes written directly below a folder as the share of items done."""
        before, ended = list_files(folder), threading.Event()

        def poll() -> None:
            while not ended.wait(POLL_SECONDS):
                try:
                    written = _bytes_written(folder, before)
                except storage_errors():  # the work itself tells of what matters
                    continue
                self.report(min(1.0, written / max(expected_bytes, 1)) * items, items, unit)

        watcher = threading.Thread(target=poll, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()


def _bytes_written(folder: Path, before: Mapping[str, Status]) -> int:
    files = list_files(folder).items()
    return sum(status.size for name, status in files if ".tfrecord" in name and before.get(name) != status)
