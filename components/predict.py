"""Predict: an exported SavedModel over image files, one row a file, in input order."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Callable, NamedTuple, Union

import numpy as np
import tensorflow as tf

from components import features
from components.errors import UserError
from components.files import replacing_file, write_csv
from components.folders import SKIPPED_NAMES
from components.images import Limits, RejectedImage, make_readable

BATCH_SIZE = 32
TOP_K = 5


class Unreadable(NamedTuple):
    """A file that could not be predicted, and why."""

    path: str
    reason: str


def prediction_columns(classes: int, top_k: int = TOP_K) -> list[str]:
    """Return the columns of a prediction file: path, label, probability, index, then the rest of the top k."""
    rest = [name for rank in range(2, min(top_k, classes) + 1) for name in (f"label_{rank}", f"probability_{rank}")]
    return ["path", "label", "probability", "index", *rest]


def prediction_row(path: str, probabilities: np.ndarray, labels: Sequence[str], top_k: int = TOP_K) -> list[Any]:
    """Return a row of prediction_columns for probabilities float32[C]; ties go to the lower index, as in argmax."""
    ranked = np.argsort(-probabilities, kind="stable")[:top_k]
    best, *rest = ((labels[index], f"{probabilities[index]:.6f}") for index in ranked)
    return [path, *best, int(ranked[0]), *(value for pair in rest for value in pair)]


def find_files(paths: Iterable[Path]) -> Iterator[str]:
    """Yield the files named and those below the folders named, in order; raises UserError for a missing path."""
    for path in paths:
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if file.is_file() and not file.name.startswith("."))
            yield from (str(file) for file in inside if file.name not in SKIPPED_NAMES)
        elif path.exists():
            yield str(path)
        else:
            raise UserError(f"There is no file or folder '{path}': give paths of images or of folders of images.")


class Classifier(NamedTuple):
    """What predicts: compute maps encoded images to float32[N, C], labels name the C classes."""

    labels: Sequence[str]
    compute: Callable[[list[bytes]], np.ndarray]


def load_export(export: Path) -> Classifier:
    """Load an exported SavedModel with the names of its classes; raises UserError for anything else."""
    if not (export / "saved_model.pb").exists():
        raise UserError(f"'{export}' holds no SavedModel: give a version folder such as runs/<name>/export/<version>.")
    model = tf.saved_model.load(str(export))
    signature = model.signatures.get(features.SERVING_SIGNATURE)
    labels = export / "assets" / "labels.txt"
    if signature is None or not labels.exists():
        raise UserError(f"The SavedModel '{export}' was not exported by topgraft: it lacks signature or labels.")
    if features.IMAGE_BYTES not in signature.structured_input_signature[1]:
        raise UserError(f"The SavedModel '{export}' takes bottlenecks only: its run named no network beside them.")

    def compute(encoded: list[bytes], model: Any = model) -> np.ndarray:  # the model keeps its tables alive
        probabilities: np.ndarray = signature(image_bytes=tf.constant(encoded, tf.string))[
            features.PROBABILITIES
        ].numpy()
        return probabilities

    return Classifier(labels.read_text(encoding="utf-8", errors="surrogateescape").split("\n")[:-1], compute)


def predict_files(
    compute: Callable[[list[bytes]], np.ndarray], files: Iterable[str]
) -> Iterator[tuple[str, Union[np.ndarray, Unreadable]]]:
    """Yield (path, probabilities float32[C] or Unreadable) in input order, a batch in memory at a time."""
    rows = iter(files)
    while batch := list(islice(rows, BATCH_SIZE)):
        contents = [_read(path) for path in batch]
        predicted = iter(_predict_each(compute, [content for content in contents if isinstance(content, bytes)]))
        for path, content in zip(batch, contents):
            outcome = next(predicted) if isinstance(content, bytes) else content
            yield path, Unreadable(path, outcome) if isinstance(outcome, str) else outcome


def _predict_each(
    compute: Callable[[list[bytes]], np.ndarray], encoded: list[bytes]
) -> Sequence[Union[np.ndarray, str]]:
    if not encoded:
        return []
    try:
        return list(compute(encoded))
    except tf.errors.InvalidArgumentError as error:
        if len(encoded) == 1:
            return [f"not an image that TensorFlow reads ({(error.message or '').splitlines()[0][:120]})"]
        # One bad image fails its batch: take the batch one by one.
        return [_predict_each(compute, [content])[0] for content in encoded]


def _read(path: str) -> Union[bytes, str]:
    try:
        return make_readable(Path(path).read_bytes(), Limits())
    except OSError as error:
        return error.strerror or str(error)
    except RejectedImage as rejected:
        return str(rejected.args[1])


def _write_jsonl(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with replacing_file(path) as partial, open(partial, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.writelines(json.dumps(dict(zip(columns, row)), ensure_ascii=False) + "\n" for row in rows)


WRITERS = {".csv": write_csv, ".jsonl": _write_jsonl}


def check_output(output: Path | None) -> None:
    """Raise UserError for an output file whose suffix names no format."""
    if output is not None and output.suffix not in WRITERS:
        raise UserError(f"Cannot write '{output}': expected a name that ends in {' or '.join(WRITERS)}.")


def write_predictions(classifier: Classifier, paths: list[Path], output: Path | None, top_k: int) -> None:
    """Classify files and folders; rows go to a .csv or .jsonl file or the terminal, unreadable files to stderr."""
    files = list(find_files(paths))
    unreadable: list[Unreadable] = []

    def rows() -> Iterator[list[Any]]:
        for path, outcome in predict_files(classifier.compute, files):
            if isinstance(outcome, Unreadable):
                unreadable.append(outcome)
            else:
                yield prediction_row(path, outcome, classifier.labels, top_k)

    if output is None:
        for path, label, probability, _, *rest in rows():
            print(path)
            for name, value in ((label, probability), *zip(rest[::2], rest[1::2])):
                print(f"  {float(value):.4f} {name}")
    else:
        WRITERS[output.suffix](output, prediction_columns(len(classifier.labels), top_k), rows())
    for path, reason in unreadable:
        print(f"{path}: {reason}", file=sys.stderr)
    print(f"{len(files) - len(unreadable)} predicted, {len(unreadable)} unreadable", file=sys.stderr)
