"""Write predictions as a CSV table, JSON lines, an HTML gallery or text, each row as soon as it is computed."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from components import features
from components.errors import UserError
from components.predict.gallery import write_gallery
from components.predict.predict import (
    Answer,
    Classifier,
    FileAnswer,
    predict_files,
    prediction_columns,
    prediction_row,
    rank_classes,
)
from components.storage.files import replacing_file
from components.storage.places import describe_error, is_remote, storage_errors
from components.storage.tables import write_csv
from components.terminal.text import print_line, printable


def check_output(output: Path | None, suffixes: Collection[str] = ()) -> None:
    """Raise UserError for an output file with none of the suffixes (of WRITERS) or in a folder that is not writable."""
    if output is None:
        return
    if output.suffix not in (suffixes or WRITERS):
        raise UserError(f"Cannot write '{output}': expected a name that ends in {', '.join(suffixes or WRITERS)}.")
    if output.is_dir():
        raise UserError(f"Cannot write '{output}', which is a folder: name a file.")
    if is_remote(output):
        return
    folder = next(folder for folder in output.absolute().parents if os.path.exists(folder))
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"Cannot write '{output}', as '{folder}' is not writable: name another folder.")


def write_predictions(
    classifier: Classifier,
    files: Iterable[str],
    output: Path | None,
    top_k: int,
    print_json: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, int]:
    """Classify files in order into a .csv, .jsonl or .html file, or without output as JSON or text on the terminal.

    Return the numbers of predicted and of unreadable files, after naming the unreadable ones on stderr.
    """
    counts = {"predicted": 0, "unreadable": 0}
    shows_evidence = output is not None and output.suffix == ".html"
    compute = classifier.explain if classifier.explain and shows_evidence else classifier.compute
    answers = _count(predict_files(compute, files), counts)
    if output is not None:
        try:
            WRITERS[output.suffix](output, answers, classifier, top_k)
        except storage_errors() as error:
            raise UserError(
                f"Cannot write '{output}' ({describe_error(error)}): name a file in another folder."
            ) from error
    elif print_json:
        for line in _lines(answers, classifier, top_k):
            print_json(line)
    else:
        _print_answers(answers, classifier, top_k)
    report_counts(counts)
    return counts


def report_unreadable(path: str, reason: str) -> None:
    """Print a file without prediction and the reason to stderr."""
    print(printable(f"{path}: {reason}"), file=sys.stderr)


def report_counts(counts: Mapping[str, int]) -> None:
    """Print the numbers of predicted and of unreadable files to stderr."""
    print(f"{counts['predicted']} predicted, {counts['unreadable']} unreadable", file=sys.stderr)


def _count(answers: Iterable[FileAnswer], counts: dict[str, int]) -> Iterator[FileAnswer]:
    for path, answer in answers:
        counts["unreadable" if isinstance(answer, str) else "predicted"] += 1
        if isinstance(answer, str):
            report_unreadable(path, answer)
        yield path, answer


def _columns(classifier: Classifier, top_k: int) -> list[str]:
    return [*prediction_columns(len(classifier.labels), top_k), *([features.ABSTAINED] if classifier.abstains else [])]


def _rows(answers: Iterable[FileAnswer], classifier: Classifier, top_k: int) -> Iterator[list[Any]]:
    for path, answer in answers:
        if isinstance(answer, Answer):
            row = prediction_row(path, answer.probabilities, classifier.labels, top_k)
            yield [*row, answer.abstained] if classifier.abstains else row


def _write_csv(output: Path, answers: Iterable[FileAnswer], classifier: Classifier, top_k: int) -> None:
    rows = (
        [str(value).lower() if isinstance(value, bool) else value for value in row]  # true or false, as in JSON
        for row in _rows(answers, classifier, top_k)
    )
    write_csv(output, _columns(classifier, top_k), rows)


def _write_jsonl(output: Path, answers: Iterable[FileAnswer], classifier: Classifier, top_k: int) -> None:
    with replacing_file(output) as partial, open(partial, "w", encoding="utf-8", errors="backslashreplace") as file:
        for line in _lines(answers, classifier, top_k):
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _lines(answers: Iterable[FileAnswer], classifier: Classifier, top_k: int) -> Iterator[dict[str, Any]]:
    columns = _columns(classifier, top_k)
    for row in _rows(answers, classifier, top_k):
        yield {
            name: float(value) if name.startswith("probability") else value
            for name, value in zip(columns, row, strict=True)
        }


def _print_answers(answers: Iterable[FileAnswer], classifier: Classifier, top_k: int) -> None:
    for path, answer in answers:
        if isinstance(answer, Answer):
            print_line(path)
            if answer.abstained:
                print(f"  {features.ABSTAINED}")
            for index in rank_classes(answer.probabilities, top_k):
                print_line(f"  {answer.probabilities[index]:.4f} {classifier.labels[index]}")


WRITERS = {".csv": _write_csv, ".jsonl": _write_jsonl, ".html": write_gallery}
