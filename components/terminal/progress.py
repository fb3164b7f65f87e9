"""Progress bars on stderr, from items done or from bytes written to a folder."""

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
    """Items per second: recent, or the mean since the start if the total is unknown."""

    def render(self, task: Task) -> Text:
        """Return the rate with its unit, empty while it is unknown."""
        rate, unit, elapsed = task.speed, task.fields["unit"], task.elapsed or 0.0
        if task.total is None:  # items come in batches, so the recent rate is too high at first
            rate = task.completed / elapsed if elapsed >= 1 else None
        return Text(f"{rate:,.{0 if rate >= 10 else 1}f} {unit}/s" if rate and unit else "", "progress.data.speed")


class Progress:
    """One bar per stage, whose bar pulses while the total is unknown; in a notebook the names of the stages."""

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
        # Rich's bars in a notebook may clear what the user's cell has printed.
        self._named = console.is_jupyter and not console.quiet
        self._task: TaskID | None = None

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Show a bar for one stage while the block runs."""
        if self._named:
            print(f"{name} ...", end=" ", flush=True)
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
        """Yield items and count them in the current stage's bar, without a total."""
        for number, item in enumerate(items, 1):
            yield item
            if self._task is not None:
                self._bars.update(self._task, completed=number, done=f"{number:,} {unit}", unit=unit)

    def report_bytes(self, done: int, total: int | None) -> None:
        """Set the current stage's bar to done of total bytes, where total may be unknown."""
        self.report(done / 2**20, max(total or done, 1) / 2**20, "MiB")

    @contextmanager
    def watch_folder(self, folder: Path, expected_bytes: int, items: int, unit: str) -> Iterator[None]:
        """While the block runs, show the fraction of expected_bytes written directly to a folder as that of items."""
        before, ended = list_files(folder), threading.Event()

        def poll() -> None:
            while not ended.wait(POLL_SECONDS):
                try:
                    written = _bytes_written(folder, before)
                except storage_errors():  # the work itself raises errors that matter
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
