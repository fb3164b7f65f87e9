"""Where predictions go: a csv table, json lines, a gallery, or the terminal; a row is written once it is known."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from components import features
from components.errors import UserError
from components.predict.gallery import write_gallery
from components.predict.predict import (
    Answer,
    Classifier,
    Unreadable,
    predict_files,
    prediction_columns,
    prediction_row,
    rank_classes,
)
from components.storage.files import replacing_file
from components.storage.places import describe_error, is_remote, storage_errors
from components.storage.tables import write_csv
from components.terminal.text import printable

Outcomes = Iterable[tuple[str, Answer | Unreadable]]


def check_output(output: Path | None) -> None:
    """Raise UserError for an output file whose suffix names no format or whose folder cannot be written to."""
    if output is None:
        return
    if output.suffix not in WRITERS:
        raise UserError(f"Cannot write '{output}': expected a name that ends in {', '.join(WRITERS)}.")
    if output.is_dir():
        raise UserError(f"Cannot write '{output}', it is a folder: name a file that does not exist yet.")
    if is_remote(output):
        return
    folder = next(folder for folder in output.absolute().parents if os.path.exists(folder))
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"Cannot write '{output}', as nothing can be written to '{folder}': name another folder.")


def write_predictions(classifier: Classifier, files: Iterable[str], output: Path | None, top_k: int) -> dict[str, int]:
    """Classify files in order into a .csv, .jsonl or .html file or the terminal; unreadable ones go to stderr.

    Returns how many were predicted and how many were unreadable.
    """
    with _counting(classifier, files) as (outcomes, counts):
        if output is None:
            _print_answers(outcomes, classifier, top_k)
        else:
            try:
                WRITERS[output.suffix](output, outcomes, classifier, top_k)
            except storage_errors() as error:
                raise UserError(
                    f"Cannot write '{output}' ({describe_error(error)}): name a file in another folder."
                ) from error
    return counts


def write_json_lines(
    classifier: Classifier, files: Iterable[str], answer: Callable[[dict[str, Any]], None], top_k: int
) -> None:
    """Classify files in order and give each row, as a .jsonl file has it, to answer; unreadable ones go to stderr."""
    with _counting(classifier, files) as (outcomes, _):
        for line in _lines(outcomes, classifier, top_k):
            answer(line)


@contextmanager
def _counting(classifier: Classifier, files: Iterable[str]) -> Iterator[tuple[Outcomes, dict[str, int]]]:
    counts = {"predicted": 0, "unreadable": 0}

    def outcomes() -> Iterator[tuple[str, Answer | Unreadable]]:
        for path, outcome in predict_files(classifier.compute, files):
            counts["unreadable" if isinstance(outcome, Unreadable) else "predicted"] += 1
            if isinstance(outcome, Unreadable):
                print(printable(f"{path}: {outcome.reason}"), file=sys.stderr)
            yield path, outcome

    yield outcomes(), counts
    print(f"{counts['predicted']} predicted, {counts['unreadable']} unreadable", file=sys.stderr)


def _columns(classifier: Classifier, top_k: int) -> list[str]:
    return [*prediction_columns(len(classifier.labels), top_k), *([features.ABSTAINED] if classifier.abstains else [])]


def _rows(outcomes: Outcomes, classifier: Classifier, top_k: int) -> Iterator[list[Any]]:
    for path, outcome in outcomes:
        if isinstance(outcome, Answer):
            row = prediction_row(path, outcome.probabilities, classifier.labels, top_k)
            yield [*row, outcome.abstained] if classifier.abstains else row


def _write_csv(output: Path, outcomes: Outcomes, classifier: Classifier, top_k: int) -> None:
    rows = _rows(outcomes, classifier, top_k)
    write_csv(output, _columns(classifier, top_k), (list(map(_format_cell, row)) for row in rows))


def _format_cell(value: Any) -> Any:
    """Return what csv holds for a value: true or false as json has them."""
    return str(value).lower() if isinstance(value, bool) else value


def _write_jsonl(output: Path, outcomes: Outcomes, classifier: Classifier, top_k: int) -> None:
    with replacing_file(output) as partial, open(partial, "w", encoding="utf-8", errors="backslashreplace") as file:
        for line in _lines(outcomes, classifier, top_k):
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _lines(outcomes: Outcomes, classifier: Classifier, top_k: int) -> Iterator[dict[str, Any]]:
    columns = _columns(classifier, top_k)
    for row in _rows(outcomes, classifier, top_k):
        yield {
            name: float(value) if name.startswith("probability") else value
            for name, value in zip(columns, row, strict=True)
        }


def _print_answers(outcomes: Outcomes, classifier: Classifier, top_k: int) -> None:
    for path, outcome in outcomes:
        if isinstance(outcome, Answer):
            print(_printable(path))
            if outcome.abstained:
                print(f"  {features.ABSTAINED}")
            for index in rank_classes(outcome.probabilities, top_k):
                print(f"  {outcome.probabilities[index]:.4f} {_printable(classifier.labels[index])}")


def _printable(name: str) -> str:
    encoding = sys.stdout.encoding or "utf-8"
    return printable(name).encode(encoding, "backslashreplace").decode(encoding)


WRITERS = {".csv": _write_csv, ".jsonl": _write_jsonl, ".html": write_gallery}
