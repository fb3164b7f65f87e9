"""Classify image files with an exported SavedModel, or with a backbone that has classes of its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import tensorflow as tf

from components import features
from components.backbones.prepare import BackboneSession, prepare_cached
from components.backbones.spec import Spec
from components.errors import UserError
from components.export.export import check_export
from components.images.check import Limits, RejectedImage, check_image, inspect_image, read_file
from components.predict.pixels import encode_pixels
from components.storage.places import describe_error, do_side_by_side, is_remote, plain_folder
from components.terminal.progress import Progress

T = TypeVar("T")

PREDICTION_BATCH = 32
DEFAULT_TOP_K = 5


class Answer(NamedTuple):
    """Class probabilities float32[C] of one image; abstained is None for a model that never abstains."""

    probabilities: np.ndarray
    abstained: bool | None = None


# A path with the answer to its image, or with the reason why it has none.
FileAnswer = tuple[str, Answer | str]


def prediction_columns(classes: int, top_k: int = DEFAULT_TOP_K) -> list[str]:
    """Return the columns of a prediction file: path, label, probability, index, then labels 2 to top_k."""
    rest = [name for rank in range(2, min(top_k, classes) + 1) for name in (f"label_{rank}", f"probability_{rank}")]
    return ["path", "label", "probability", "index", *rest]


def rank_classes(probabilities: np.ndarray, top_k: int) -> list[int]:
    """Return the indices of the top_k largest of probabilities float32[C]; the lower index wins a tie, as in argmax."""
    ranked: list[int] = np.argsort(-probabilities, kind="stable")[:top_k].tolist()
    return ranked


def prediction_row(
    path: str, probabilities: np.ndarray, labels: Sequence[str], top_k: int = DEFAULT_TOP_K
) -> list[Any]:
    """Return the values of prediction_columns for probabilities float32[C] of C labels."""
    ranked = rank_classes(probabilities, top_k)
    best, *rest = ((labels[index], f"{probabilities[index]:.6f}") for index in ranked)
    return [path, *best, ranked[0], *(value for pair in rest for value in pair)]


class Classifier(NamedTuple):
    """A loaded model: labels of its C classes, and compute, which maps N encoded images to N answers."""

    labels: Sequence[str]
    compute: Callable[[list[bytes]], Sequence[Answer]]
    abstains: bool = False


def load_export(export: Path) -> Classifier:
    """Return the classifier of an export's version folder; raises UserError for one that serves no images."""
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
        raise UserError(
            f"The SavedModel '{export}' was not exported by topgraft, as it lacks signature or labels: export it again."
        )
    if features.IMAGE_BYTES not in signature.structured_input_signature[1]:
        raise UserError(f"The SavedModel '{export}' takes bottlenecks only: run with a backbone that has a network.")

    abstains = features.ABSTAINED in signature.structured_outputs

    def compute(encoded: list[bytes], model: Any = model) -> list[Answer]:  # a reference keeps its tables alive
        outputs = signature(image_bytes=tf.constant(encoded, tf.string))
        abstained = outputs[features.ABSTAINED].numpy().tolist() if abstains else [None] * len(encoded)
        return [Answer(*pair) for pair in zip(outputs[features.PROBABILITIES].numpy(), abstained, strict=True)]

    names = labels.read_text(encoding="utf-8", errors="surrogateescape").split("\n")[:-1]
    return Classifier(names, compute, abstains)


def load_backbone_classifier(specs: Sequence[Spec], progress: Progress) -> Classifier:
    """Return the classifier of a backbone's own classes; raises UserError for a backbone without classes."""
    backbone, folder = prepare_cached(specs, progress, own_classes=True)
    if not backbone.labels:
        raise UserError(f"The backbone '{backbone.name}' has no classes of its own: train a head with topgraft run.")
    session = BackboneSession(folder)
    return Classifier(
        [name.split(",")[0] for name in backbone.labels],  # the first of 'giant panda, panda, panda bear'
        lambda encoded: [Answer(row) for row in session.run(features.PROBABILITIES, features.IMAGE_BYTES, encoded)],
    )


def predict_files(
    compute: Callable[[list[bytes]], Sequence[Answer]], files: Iterable[T]
) -> Iterator[tuple[T, Answer | str]]:
    """Yield each path, encoded image or image of encode_pixels with its answer or the reason why it has none, in order.

    One batch of images is in memory at a time.
    """
    rows = iter(files)
    while batch := list(islice(rows, PREDICTION_BATCH)):
        contents = do_side_by_side(_read, batch, any(isinstance(file, str) and is_remote(file) for file in batch))
        predicted = iter(predict_each(compute, [content for content in contents if isinstance(content, bytes)]))
        for path, content in zip(batch, contents, strict=True):
            yield path, next(predicted) if isinstance(content, bytes) else content


def predict_each(compute: Callable[[list[bytes]], Sequence[Answer]], encoded: list[bytes]) -> Sequence[Answer | str]:
    """Return for each of N encoded images its answer, or the reason why the model cannot read it."""
    if not encoded:
        return []
    try:
        return compute(encoded)
    except tf.errors.InvalidArgumentError:
        if len(encoded) == 1:
            return [_explain(encoded[0])]
        # One bad image fails its batch, so compute the images one by one.
        return [predict_each(compute, [content])[0] for content in encoded]


def _read(file: Any) -> bytes | str:
    if isinstance(file, str) and not is_remote(file) and os.path.isdir(file):
        return "a folder that cannot be read, or a link to one above it"
    try:
        if isinstance(file, str):
            content = read_file(file, Limits())
        else:
            content = file if isinstance(file, bytes) else encode_pixels(file)
        return inspect_image(content, Limits()).encoded
    except RejectedImage as rejected:
        return describe_rejected(rejected)
    except OSError as error:
        return f"unreadable: {describe_error(error)}"


def _explain(encoded: bytes) -> str:
    """Return the reason why the model failed on an image."""
    try:
        check_image(encoded, Limits())
    except RejectedImage as rejected:
        return describe_rejected(rejected)
    return "an image that this model cannot read"


def describe_rejected(rejected: RejectedImage) -> str:
    """Return the reason and detail of a rejected image as one text."""
    reason, detail = rejected.args
    return f"{reason.replace('_', ' ')}: {detail}"
