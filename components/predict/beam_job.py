"""Predict as a Beam job: workers classify ranges of files, and the command joins their outputs in input order."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.options.pipeline_options import PipelineOptions

from components.errors import UserError
from components.predict.outputs import WRITERS, check_output, report_counts, report_unreadable
from components.predict.predict import PREDICTION_BATCH, FileAnswer, load_export, predict_files
from components.storage.files import PARTIAL, append_suffix, replacing_file, write_json
from components.storage.places import make_folder, remove

JOB_SUFFIXES = (".csv", ".jsonl")
# Default 1024 images per range, which a failed worker repeats.
BATCHES_PER_RANGE = 32
NAMES_FILE, UNREADABLE_SUFFIX = "names.jsonl", ".unreadable"


class FileRange(NamedTuple):
    """Consecutive input files: number of the first one, byte offset of its name in the list, number of files."""

    first: int
    offset: int
    images: int

    @property
    def stem(self) -> str:
        return f"{self.first:012d}"


def predict_by_beam(
    export: Path, files: Iterable[str], output: Path | None, top_k: int, shards: int | None, options: PipelineOptions
) -> dict[str, int]:
    """Classify files into a .csv or .jsonl file; content and returned counts are those of write_predictions.

    Workers read the images, the export and a folder beside the output by the same paths. Raises UserError for an output
    of another suffix and for an export that cannot be used.
    """
    if output is None or output.suffix not in JOB_SUFFIXES:
        found = f"'{output}'" if output else "the terminal"
        raise UserError(f"A Beam job cannot write to {found}: set --output to a name that ends in .csv or .jsonl.")
    check_output(output)
    load_export(export)  # raises UserError here, before a worker would fail
    folder = append_suffix(output.absolute(), f".{uuid4().hex}.shards{PARTIAL}")
    make_folder(folder)
    try:
        listed = divide_files(files, folder / NAMES_FILE, shards)
        with beam.Pipeline(options=options) as pipeline:
            # Workers read the names from a file: they may not be Unicode, which Beam requires.
            _ = (
                pipeline
                | "List shards" >> beam.Create(listed)
                | "Spread shards" >> beam.Reshuffle()
                | "Predict" >> beam.ParDo(PredictShard(export, folder, output.suffix, top_k))
            )
        unreadable = 0
        for part in listed:
            for path, reason in json.loads((folder / (part.stem + UNREADABLE_SUFFIX)).read_bytes()):
                report_unreadable(path, reason)
                unreadable += 1
        join_outputs([folder / (part.stem + output.suffix) for part in listed], output)
    finally:
        remove(folder)
    counts = {"predicted": sum(part.images for part in listed) - unreadable, "unreadable": unreadable}
    report_counts(counts)
    return counts


def divide_files(files: Iterable[str], names: Path, shards: int | None) -> list[FileRange]:
    """Write the files' names as JSON lines, and return their ranges, by default of BATCHES_PER_RANGE batches each.

    A range has whole batches, as the other images of a batch may change the last digit of a probability.
    """
    offsets, count, rows = [], 0, iter(files)
    with replacing_file(names) as partial, open(partial, "w", encoding="ascii") as file:
        while batch := list(islice(rows, PREDICTION_BATCH)):
            offsets.append(file.tell())
            file.writelines(f"{json.dumps(path)}\n" for path in batch)
            count += len(batch)
    step = math.ceil(len(offsets) / shards) if shards else BATCHES_PER_RANGE
    firsts = range(0, len(offsets), step)
    size = step * PREDICTION_BATCH
    return [
        FileRange(first * PREDICTION_BATCH, offsets[first], min(size, count - first * PREDICTION_BATCH))
        for first in firsts
    ]


class PredictShard(beam.DoFn):
    """Writes the predictions of a range to one file, and a list of its unreadable files to another."""

    def __init__(self, export: Path, folder: Path, suffix: str, top_k: int):
        self._export = export.absolute()
        self._folder = folder
        self._suffix = suffix
        self._top_k = top_k

    def setup(self) -> None:
        self._classifier = load_export(self._export)

    def process(self, files: FileRange) -> Iterator[Any]:
        unreadable: list[FileAnswer] = []

        def answers() -> Iterator[FileAnswer]:
            with (self._folder / NAMES_FILE).open(encoding="ascii") as file:
                file.seek(files.offset)
                names = map(json.loads, islice(file, files.images))
                for path, answer in predict_files(self._classifier.compute, names):
                    if isinstance(answer, str):
                        unreadable.append((path, answer))
                    Metrics.counter("predict", "unreadable" if isinstance(answer, str) else "predicted").inc()
                    yield path, answer

        WRITERS[self._suffix](self._folder / (files.stem + self._suffix), answers(), self._classifier, self._top_k)
        write_json(self._folder / (files.stem + UNREADABLE_SUFFIX), unreadable)
        yield from ()


def join_outputs(parts: Iterable[Path], output: Path) -> None:
    """Write the concatenation of files in one step; CSV files keep only the header of the first."""
    with replacing_file(output) as partial, open(partial, "wb") as joined:
        for number, part in enumerate(parts):
            with part.open("rb") as file:
                if number and output.suffix == ".csv":
                    file.readline()
                shutil.copyfileobj(file, joined)
