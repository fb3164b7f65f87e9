"""Predict: an exported SavedModel, or a backbone with classes of its own, over image files, one answer a file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from components import features
from components.backbones.prepare import BackboneSession, prepare_cached
from components.backbones.spec import Spec
from components.errors import UserError
from components.export.export import check_export
from components.images.check import Limits, RejectedImage, check_image, inspect_image, read_file
from components.storage.places import describe_error, do_side_by_side, is_remote, plain_folder
from components.terminal.progress import Progress

BATCH_SIZE = 32
TOP_K = 5


class Answer(NamedTuple):
    """What a model makes of an image: probabilities float32[C]; abstained is None where the model never abstains."""

    probabilities: np.ndarray
    abstained: bool | None = None


class Unreadable(NamedTuple):
    """A file that could not be predicted, and why."""

    path: str
    reason: str


def prediction_columns(classes: int, top_k: int = TOP_K) -> list[str]:
    """Return the columns of a prediction file: path, label, probability, index, then the rest of the top k."""
    rest = [name for rank in range(2, min(top_k, classes) + 1) for name in (f"label_{rank}", f"probability_{rank}")]
    return ["path", "label", "probability", "index", *rest]


def rank_classes(probabilities: np.ndarray, top_k: int) -> list[int]:
    """Return the classes of the top k of probabilities float32[C]; ties go to the lower index, as in argmax."""
    ranked: list[int] = np.argsort(-probabilities, kind="stable")[:top_k].tolist()
    return ranked


def prediction_row(path: str, probabilities: np.ndarray, labels: Sequence[str], top_k: int = TOP_K) -> list[Any]:
    """Return a row of prediction_columns for probabilities float32[C]."""
    ranked = rank_classes(probabilities, top_k)
    best, *rest = ((labels[index], f"{probabilities[index]:.6f}") for index in ranked)
    return [path, *best, ranked[0], *(value for pair in rest for value in pair)]


class Classifier(NamedTuple):
    """What predicts: compute maps N encoded images to N answers, labels name the C classes."""

    labels: Sequence[str]
    compute: Callable[[list[bytes]], Sequence[Answer]]
    abstains: bool = False


def load_export(export: Path) -> Classifier:
    """Load an exported SavedModel with the names of its classes; raises UserError for anything else."""
    if not (export / "saved_model.pb").exists():
        raise UserError(f"'{export}' holds no SavedModel: give a version folder such as runs/<name>/export/<version>.")
    check_export(export)
    try:
        with plain_folder(export) as plain:
            model = tf.saved_model.load(str(plain))
    except (OSError, tf.errors.OpError) as error:
        reason = str(error).splitlines()[0].rstrip(". ")
        raise UserError(f"The SavedModel '{export}' cannot be loaded ({reason}): export it again.") from error
    signature = model.signatures.get(features.SERVING_SIGNATURE)
    labels = export / "assets" / "labels.txt"
    if signature is None or not labels.exists():
        raise UserError(f"The SavedModel '{export}' was not exported by topgraft: it lacks signature or labels.")
    if features.IMAGE_BYTES not in signature.structured_input_signature[1]:
        raise UserError(f"The SavedModel '{export}' takes bottlenecks only: its run named no network beside them.")

    abstains = features.ABSTAINED in signature.structured_outputs

    def compute(encoded: list[bytes], model: Any = model) -> list[Answer]:  # the model keeps its tables alive
        outputs = signature(image_bytes=tf.constant(encoded, tf.string))
        abstained = outputs[features.ABSTAINED].numpy().tolist() if abstains else [None] * len(encoded)
        return [Answer(*pair) for pair in zip(outputs[features.PROBABILITIES].numpy(), abstained, strict=True)]

    names = labels.read_text(encoding="utf-8", errors="surrogateescape").split("\n")[:-1]
    return Classifier(names, compute, abstains)


def load_backbone_classifier(specs: Sequence[Spec], progress: Progress) -> Classifier:
    """Return a backbone's classifier of its own classes; raises UserError for one without classes."""
    backbone, folder = prepare_cached(specs, progress, own_classes=True)
    if not backbone.labels:
        raise UserError(f"The backbone '{backbone.name}' has no classes of its own: train a head with topgraft run.")
    session = BackboneSession(folder)
    return Classifier(
        [name.split(",")[0] for name in backbone.labels],  # of 'giant panda, panda, panda bear' the first
        lambda encoded: [Answer(row) for row in session.run(features.PROBABILITIES, features.IMAGE_BYTES, encoded)],
    )


def predict_files(
    compute: Callable[[list[bytes]], Sequence[Answer]], files: Iterable[str]
) -> Iterator[tuple[str, Answer | Unreadable]]:
    """Yield (path, Answer or Unreadable) in input order, a batch in memory at a time."""
    rows = iter(files)
    while batch := list(islice(rows, BATCH_SIZE)):
        contents = do_side_by_side(_read, batch, any(map(is_remote, batch)))
        predicted = iter(predict_each(compute, [content for content in contents if isinstance(content, bytes)]))
        for path, content in zip(batch, contents, strict=True):
            outcome = next(predicted) if isinstance(content, bytes) else content
            yield path, Unreadable(path, outcome) if isinstance(outcome, str) else outcome


def predict_each(compute: Callable[[list[bytes]], Sequence[Answer]], encoded: list[bytes]) -> Sequence[Answer | str]:
    """Return for each of N encoded images its Answer, or why the model does not read it."""
    if not encoded:
        return []
    try:
        return compute(encoded)
    except tf.errors.InvalidArgumentError:
        if len(encoded) == 1:
            return [_explain(encoded[0])]
        # One bad image fails its batch: take the batch one by one.
        return [predict_each(compute, [content])[0] for content in encoded]


def _read(path: str) -> bytes | str:
    if not is_remote(path) and os.path.isdir(path):
        return "a folder that cannot be read, or a link to one above it"
    try:
        return inspect_image(read_file(path, Limits()), Limits()).encoded
    except RejectedImage as rejected:
        return describe_rejected(rejected)
    except OSError as error:
        return f"unreadable: {describe_error(error)}"


def _explain(encoded: bytes) -> str:
    """Return why the model failed on what it was given."""
    try:
        check_image(encoded, Limits())
    except RejectedImage as rejected:
        return describe_rejected(rejected)
    return "an image that this model does not read"


def describe_rejected(rejected: RejectedImage) -> str:
    """Return the reason and detail of a rejected image as words."""
    reason, detail = rejected.args
    return f"{reason.replace('_', ' ')}: {detail}"
