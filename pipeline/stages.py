"""Run the stages of a pipeline, skip finished ones, and keep a record of each."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from inspect import signature
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from components.errors import DamagedFile, UserError
from components.features import VERSION
from components.outcomes import Work
from components.run_dir import MODEL_CARD, STAGES, RunDir
from components.shards.names import is_shard
from components.storage.files import read_json, write_json
from components.storage.ownership import claim_files, remove_written
from components.terminal.progress import Progress
from components.terminal.text import printable
from pipeline.file_states import UNFINISHED, Differences, FileState, compare_files, examine_files
from pipeline.stage_inputs import count_images, hash_parts, identify_input

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

EXPORT_NAME = "export"
# Key in the record of an unfinished export: the lowest version that it can have.
FIRST_VERSION = "first_version"


class StopAfterStage(Exception):
    """The stage of --only is done."""


class Outcome(Protocol):
    """The result of a stage: a dataclass of plain values with the folder of its files.

    An optional method `extra_paths` returns further files and folders of the stage.
    """

    @property
    def work(self) -> Work: ...

    def folder(self, run: RunDir) -> Path: ...


T = TypeVar("T", bound=Outcome)


@dataclass(frozen=True)
class Stage(Generic[T]):
    """A stage: its name, its function as "module:function", which is imported only to run it, and its outcome."""

    name: str
    function: str | Callable[..., T]
    outcome: type[T]

    def named(self, name: str) -> Stage[T]:
        """Return the same stage under another name, for a run with several of its kind."""
        return replace(self, name=name)

    def load(self) -> Callable[..., T]:
        """Return the function, imported if needed."""
        function: Callable[..., T] = resolve_name(self.function) if isinstance(self.function, str) else self.function
        return function


@dataclass(frozen=True)
class StageRecord:
    """The content of a stage's file in stages/: the key of its inputs, its outcome, and the state of its files.

    seconds is elapsed time, core_seconds the time of busy cores in this process, 0 if not measured.
    """

    key: str
    seconds: float
    outcome: dict[str, Any]
    files: dict[str, FileState]
    core_seconds: float = 0.0


class Stages:
    """Runs the stages of one run directory in the order of their calls.

    make_options returns Beam's options for the name of a stage and the number of its images.
    """

    def __init__(
        self,
        run: RunDir,
        progress: Progress,
        make_options: Callable[[str, int], PipelineOptions],
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
        """Return a stage's outcome: the recorded one if its inputs and files are unchanged, else that of its function.

        Inputs are outcomes of earlier stages, settings, files and plain values, and the key is a hash of all of them.
        The function's parameters run, progress, options and stages (the summary of earlier stages) are passed by name
        and are no inputs. Raises UserError if --only needs a missing outcome, StopAfterStage after the stage of --only.
        """
        name = stage.name
        known = [(outcome, [other, self._keys[other]]) for other, outcome in self.outcomes.items()]
        key = hash_parts([VERSION, name, *(identify_input(value, known) for value in inputs)])
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
        unfinished = (MODEL_CARD,) if name == EXPORT_NAME else ()  # the report completes it
        places = [outcome.folder(self._run), *getattr(outcome, "extra_paths", lambda run: ())(self._run)]
        files = examine_files(places, self._run.root, unfinished)
        record = StageRecord(key, seconds, asdict(outcome), files, core_seconds)  # type: ignore[call-overload]
        self._drop_overwritten(name, record)
        write_json(self._path(name), asdict(record))
        return self._finish(name, record, outcome, skipped=False)

    def _call(self, stage: Stage[T], inputs: tuple[Any, ...]) -> T:
        function = stage.load()
        given: dict[str, Callable[[], Any]] = {
            "run": lambda: self._run,
            "progress": lambda: self.progress,
            "options": lambda: self._make_options(stage.name, count_images(stage.name, inputs)),
            "stages": lambda: self.summary,
        }
        names = [*signature(function).parameters]
        passed = dict(zip([name for name in names if name not in given], inputs, strict=True))
        return function(**passed, **{name: make() for name, make in given.items() if name in names})

    def _drop_overwritten(self, name: str, record: StageRecord) -> None:
        # A run and a curve can share a folder of extractions; fine-tuning and later stages share a backbone.
        for path in self._run.stages.glob("*.json"):
            other = None if path.stem == name else self._read(path.stem)
            states = other.files if other else {}
            for file in states.keys() & record.files.keys():
                # The size of a shard does not identify its content.
                if is_shard(file.rpartition("/")[2]) or states[file] not in (UNFINISHED, record.files[file]):
                    path.unlink(missing_ok=True)

    def _begin(self, name: str) -> None:
        # Its files may change from now on, and a killed stage must not count as done.
        claim_files(self._run.stages, [self._path(name).name])
        if name != EXPORT_NAME:
            self._path(name).unlink(missing_ok=True)
            return
        # Each export has its own folder, and no record has the folder of an export that was killed at its end.
        exports, path = self._run.exports, self._path(name)
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
        if name == EXPORT_NAME:  # nobody may serve the rest of it, or compare a new model with it
            for file in (*differences.missing, *differences.changed):
                remove_written(self._run.exports / file.relative_to(self._run.exports).parts[0])
        for file in differences.changed:
            if file.name == MODEL_CARD:  # export wrote part of it and must run again
                raise DamagedFile(str(file))
            print(f"topgraft: '{printable(str(file))}' has changed and is computed again.", file=sys.stderr)
            # The stage reuses intact shards.
            if name != EXPORT_NAME and not is_shard(file.name):
                file.unlink()

    def _finish(self, name: str, record: StageRecord, outcome: T, skipped: bool) -> T:
        # The key includes the outcome, as a repeated stage can have another one, such as an export's version.
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
        except (FileNotFoundError, DamagedFile, AttributeError, TypeError):  # no record, or one of an unfinished stage
            return None


def _restore(kind: type[T], values: dict[str, Any]) -> T | None:
    try:
        return kind(**{**values, "work": Work(**values["work"])})
    except (KeyError, TypeError):  # a damaged record
        return None
