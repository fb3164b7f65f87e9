"""Run stages, skip what is already done, keep the record of it."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from components.data.image_file import Listing
from components.errors import DamagedFile, UserError
from components.features import VERSION
from components.outcomes import Work
from components.run_dir import MODEL_CARD, STAGES, RunDir
from components.shards.names import is_shard
from components.storage.files import fingerprint_file, read_json, write_json
from components.storage.ownership import claim_files, remove_written
from components.terminal.progress import Progress
from components.terminal.text import printable
from pipeline.file_states import UNFINISHED, Differences, FileState, compare_files, examine_files

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

EXPORT = "export"
# In the record of an export that has begun: the first version that it can have.
FIRST_VERSION = "first_version"


class StopAfterStage(Exception):
    """The one stage that was asked for is done."""


class Outcome(Protocol):
    """What a stage returns: a dataclass of plain values that knows its folder.

    A method `beside`, where it has one, names further files and folders that the stage has written.
    """

    @property
    def work(self) -> Work: ...

    def folder(self, run: RunDir) -> Path: ...


T = TypeVar("T", bound=Outcome)


@dataclass(frozen=True)
class Stage(Generic[T]):
    """A stage: its name, its function as "module:function", loaded only where it has something to do, its outcome."""

    name: str
    function: str | Callable[..., T]
    outcome: type[T]

    def named(self, name: str) -> Stage[T]:
        """Return the same stage under another name, for a run that has several of it."""
        return replace(self, name=name)

    def load(self) -> Callable[..., T]:
        """Return the function."""
        if not isinstance(self.function, str):
            return self.function
        module, name = self.function.split(":")
        function: Callable[..., T] = getattr(import_module(module), name)
        return function


@dataclass(frozen=True)
class StageRecord:
    """One stage's file below stages/: the key of its inputs, its outcome, and the state of every file it left.

    seconds are those of the clock, core_seconds those of busy cores in this process, 0 where they were not taken.
    """

    key: str
    seconds: float
    outcome: dict[str, Any]
    files: dict[str, FileState]
    core_seconds: float = 0.0


class Stages:
    """Runs the stages of one run directory in the order in which they are called.

    make_options gives Beam's options for a stage's name, to a stage that takes them.
    """

    def __init__(
        self,
        run: RunDir,
        progress: Progress,
        make_options: Callable[[str], PipelineOptions],
        first: str | None = None,
        only: str | None = None,
    ):
        self._run = run
        self.progress = progress
        self._make_options = make_options
        self._first = first
        self._only = only
        self._keys: dict[str, str] = {}
        self.summary: dict[str, dict[str, Any]] = {}
        self.outcomes: dict[str, Outcome] = {}

    def run(self, stage: Stage[T], *inputs: Any) -> T:
        """Return a stage's outcome: the recorded one if its inputs and files are as then, else that of its function.

        Inputs are outcomes of earlier stages, settings, files and plain values: all that a stage gets decides its key.
        The function's parameters run, progress, options and stages (run.json's record of those before) are no inputs:
        they are given by name.
        Raises StopAfterStage once the only stage asked for is done.
        """
        name = stage.name
        key = hash_parts([VERSION, name, *map(self._identify, inputs)])
        record = self._read(name)
        differences = compare_files(record.files, self._run.root) if record else Differences([], [])
        former = None
        if record and record.key == key and not any(differences):
            former = _restore(stage.outcome, record.outcome)
        forced = name == self._only or (self._first is not None and STAGES.index(name) >= STAGES.index(self._first))
        if self._only not in (None, name) and not former:
            raise UserError(
                f"Stage '{name}' has no finished result for this config: run without --only {self._only} first."
            )
        if record and former and not forced:
            return self._finish(name, record, former, skipped=True)
        self._discard(name, differences)
        self._begin(name)
        started, busy = time.perf_counter(), time.process_time()
        with self.progress.stage(name):
            outcome = self._call(stage, inputs)
        seconds, core_seconds = round(time.perf_counter() - started, 3), round(time.process_time() - busy, 3)
        unfinished = (MODEL_CARD,) if name == EXPORT else ()  # the report completes it
        files = examine_files(_list_places(outcome, self._run), self._run.root, unfinished)
        record = StageRecord(key, seconds, asdict(outcome), files, core_seconds)  # type: ignore[call-overload]
        self._drop_overwritten(name, record)
        write_json(self._path(name), asdict(record))
        return self._finish(name, record, outcome, skipped=False)

    def _call(self, stage: Stage[T], inputs: tuple[Any, ...]) -> T:
        function = stage.load()
        given: dict[str, Callable[[], Any]] = {
            "run": lambda: self._run,
            "progress": lambda: self.progress,
            "options": lambda: self._make_options(stage.name),
            "stages": lambda: self.summary,
        }
        names = [*signature(function).parameters]
        passed = dict(zip([name for name in names if name not in given], inputs, strict=True))
        return function(**passed, **{name: make() for name, make in given.items() if name in names})

    def _identify(self, value: Any) -> Any:
        """Return plain values that tell an input from any other; of an outcome, its stage's inputs among them."""
        for name, outcome in self.outcomes.items():
            if outcome is value:
                return [name, self._keys[name]]
        if value is None or isinstance(value, str | int | float):
            return value
        if isinstance(value, Path):
            return fingerprint_file(value)
        if isinstance(value, Listing):
            return value.fingerprint()
        if isinstance(value, Mapping):
            return {str(key): self._identify(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._identify(item) for item in value]
        if is_dataclass(value):
            # Settings that name the files that count have other paths, such as a run directory, for their sake alone.
            files = getattr(value, "inputs", None)
            parts = {field.name: getattr(value, field.name) for field in fields(value)}
            if files is not None:
                parts = {name: str(part) if isinstance(part, Path) else part for name, part in parts.items()}
            return [type(value).__name__, self._identify(parts), self._identify(files)]
        raise TypeError(f"A stage cannot depend on {type(value).__name__}.")

    def _drop_overwritten(self, name: str, record: StageRecord) -> None:
        # Extractions for a run and for a curve can share a folder, fine-tuning and what follows it share a backbone.
        for path in self._run.stages.glob("*.json"):
            other = None if path.stem == name else self._read(path.stem)
            states = other.files if other else {}
            for file in states.keys() & record.files.keys():
                # The size of a shard does not tell whose content it holds.
                if is_shard(file.rpartition("/")[2]) or states[file] not in (UNFINISHED, record.files[file]):
                    path.unlink(missing_ok=True)

    def _begin(self, name: str) -> None:
        # From here on its files may change: a killed stage must not pass as done.
        claim_files(self._run.stages, [self._path(name).name])
        if name == EXPORT:
            self._begin_export()
        else:
            self._path(name).unlink(missing_ok=True)

    def _begin_export(self) -> None:
        # Each export has a folder of its own: what a stage killed at its very end has left, no record tells of.
        exports, path = self._run.exports, self._path(EXPORT)
        versions = [int(folder.name) for folder in exports.glob("*") if folder.name.isdecimal()]
        first = None
        with suppress(FileNotFoundError, DamagedFile):
            first = read_json(path).get(FIRST_VERSION)
        for version in versions:
            if first is not None and version >= first:
                remove_written(exports / str(version))
        first = first or max([int(time.time()), *(version + 1 for version in versions)])
        write_json(path, {FIRST_VERSION: first})

    def _discard(self, name: str, differences: Differences) -> None:
        if name == EXPORT:  # nobody is to serve what is left of it, or to compare a new model with that
            for file in (*differences.missing, *differences.changed):
                remove_written(self._run.exports / file.relative_to(self._run.exports).parts[0])
        for file in differences.changed:
            if file.name == MODEL_CARD:  # part of it is the export's, which has to be made again
                raise DamagedFile(str(file))
            print(f"topgraft: '{printable(str(file))}' has changed and is computed again.", file=sys.stderr)
            # Of shards, what is whole is taken over.
            if name != EXPORT and not is_shard(file.name):
                file.unlink()

    def _finish(self, name: str, record: StageRecord, outcome: T, skipped: bool) -> T:
        # With what it found: a stage that has to be done again may, as an export's version does, come out otherwise.
        found = {key: value for key, value in asdict(outcome).items() if key != "work"}  # type: ignore[call-overload]
        self._keys[name] = hash_parts([record.key, found])
        self.summary[name] = {"seconds": record.seconds, **asdict(outcome.work), "skipped": skipped}
        self.outcomes[name] = outcome
        if name == self._only:
            raise StopAfterStage
        return outcome

    def _path(self, name: str) -> Path:
        return self._run.stages / f"{name}.json"

    def _read(self, name: str) -> StageRecord | None:
        try:
            values = read_json(self._path(name), "files")
            files = {file: FileState(*state) for file, state in values.pop("files").items()}
            return StageRecord(**values, files=files)
        except (FileNotFoundError, DamagedFile, AttributeError, TypeError):  # none, or of a stage that did not end
            return None


def _list_places(outcome: Outcome, run: RunDir) -> list[Path]:
    return [outcome.folder(run), *getattr(outcome, "beside", lambda run: ())(run)]


def _restore(kind: type[T], values: dict[str, Any]) -> T | None:
    try:
        return kind(**{**values, "work": Work(**values["work"])})
    except (KeyError, TypeError):  # a damaged record
        return None


def hash_parts(parts: list[Any]) -> str:
    """Return a short hash of plain values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
