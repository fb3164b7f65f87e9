"""Run stages, skip what is already done, keep the record of it."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Callable, Optional, Protocol, TypeVar

from components.errors import UserError
from components.features import MODEL_CARD, STAGES, RunDir, Work
from components.files import write_json
from components.progress import Progress

# A change of what stages write invalidates what earlier versions left.
VERSION = "0.2.0"


class StopAfterStage(Exception):
    """The one stage that was asked for is done."""


class Outcome(Protocol):
    """What a stage returns: a dataclass of plain values that knows its folder."""

    @property
    def work(self) -> Work: ...

    def folder(self, run: RunDir) -> Path: ...


T = TypeVar("T", bound=Outcome)


@dataclass(frozen=True)
class StageRecord:
    """One stage's file below stages/: the key of its inputs, its outcome, and the size of every file it left.

    seconds are those of the clock, core_seconds those of busy cores in this process, 0 where they were not taken.
    """

    key: str
    seconds: float
    outcome: dict[str, Any]
    files: dict[str, int]
    core_seconds: float = 0.0


class Stages:
    """Runs the stages of one run directory in the order in which they are called."""

    def __init__(self, run: RunDir, progress: Progress, first: Optional[str] = None, only: Optional[str] = None):
        self._run = run
        self.progress = progress
        self._first = first
        self._only = only
        self._keys: dict[str, str] = {}
        self.summary: dict[str, dict[str, Any]] = {}
        self.outcomes: dict[str, Outcome] = {}

    def do(
        self, name: str, kind: type[T], work: Callable[[], T], settings: Sequence[Any] = (), after: Sequence[str] = ()
    ) -> T:
        """Return a stage's outcome: the recorded one if settings, earlier stages and files are as then, else work()'s.

        Raises StopAfterStage once the only stage asked for is done.
        """
        key = hash_parts([VERSION, name, *settings, *(self._keys[before] for before in after)])
        self._keys[name] = key
        record = self._read(name)
        done = record is not None and record.key == key and self._is_intact(record)
        forced = name == self._only or (self._first is not None and STAGES.index(name) >= STAGES.index(self._first))
        if self._only not in (None, name) and not done:
            raise UserError(
                f"Stage '{name}' has no finished result for this config: run without --only {self._only} first."
            )
        if done and not forced:
            assert record is not None
            return self._finish(name, record, _restore(kind, record.outcome), skipped=True)
        self._path(name).unlink(
            missing_ok=True
        )  # from here on its files may change: a killed stage must not pass as done
        started, busy = time.perf_counter(), time.process_time()
        with self.progress.stage(name):
            outcome = work()
        seconds, core_seconds = round(time.perf_counter() - started, 3), round(time.process_time() - busy, 3)
        folder = outcome.folder(self._run)
        files = {
            str(file.relative_to(self._run.root)): file.stat().st_size
            for file in sorted(folder.rglob("*"))
            if file.is_file()
        }
        record = StageRecord(key, seconds, asdict(outcome), files, core_seconds)  # type: ignore[call-overload]
        self._drop_overwritten(name, record)
        write_json(self._path(name), asdict(record))
        return self._finish(name, record, outcome, skipped=False)

    def _drop_overwritten(self, name: str, record: StageRecord) -> None:
        # Extractions for a run and for a curve can share a folder: sizes alone do not tell whose content it holds.
        for path in self._run.stages.glob("*.json"):
            other = None if path.stem == name else self._read(path.stem)
            if other and other.files.keys() & record.files.keys():
                path.unlink()

    def _finish(self, name: str, record: StageRecord, outcome: T, skipped: bool) -> T:
        self.summary[name] = {"seconds": record.seconds, **asdict(outcome.work), "skipped": skipped}
        self.outcomes[name] = outcome
        if name == self._only:
            raise StopAfterStage
        return outcome

    def _path(self, name: str) -> Path:
        return self._run.stages / f"{name}.json"

    def _read(self, name: str) -> Optional[StageRecord]:
        try:
            return StageRecord(**json.loads(self._path(name).read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def _is_intact(self, record: StageRecord) -> bool:
        for name, size in record.files.items():
            path = self._run.root / name
            if not path.is_file():
                return False
            # A later stage completes the card.
            if path.stat().st_size != size and path.name != MODEL_CARD:
                return False
        return True


def open_run_folder(run: RunDir) -> None:
    """Create the run directory; raises UserError where it cannot be written."""
    try:
        run.stages.mkdir(parents=True, exist_ok=True)
        probe = run.stages / "probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"Cannot write to '{run.root}' ({error.strerror}): set output_dir to a folder that can be written."
        ) from error


def _restore(kind: type[T], values: dict[str, Any]) -> T:
    return kind(**{**values, "work": Work(**values["work"])})


def hash_parts(parts: list[Any]) -> str:
    """Return a short hash of plain values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]
