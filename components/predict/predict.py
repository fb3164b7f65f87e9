"""Classify image files with an exported SavedModel, or with a backbone that has classes of its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import tensorflow as tf

from components import features
from components.backbones.maps import list_maps
from components.backbones.prepare import BackboneSession, prepare_cached
from components.backbones.spec import Spec
from components.errors import UserError
from components.export.explain import SCOPE
from components.export.versions import check_export, read_note
from components.images.check import Limits, RejectedImage, check_image, inspect_image, read_file
from components.predict.pixels import encode_pixels
from components.storage.places import describe_error, do_side_by_side, is_remote, plain_folder
from components.terminal.progress import Progress

v1 = tf.compat.v1
T = TypeVar("T")

PREDICTION_BATCH = 32
DEFAULT_TOP_K = 5


class Answer(NamedTuple):
    """Class probabilities float32[C] of one image; abstained is None for a model that never abstains.

    evidence float32[K, h, w] is that for the K classes that were asked about, None where none were.
    """

    probabilities: np.ndarray
    abstained: bool | None = None
    evidence: np.ndarray | None = None


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
    """A loaded model: labels of its C classes, and compute, which maps N encoded images to N answers.

    explain maps N encoded images with K names of classes each, '' for the predicted one, to N answers with evidence;
    without names it is that of the predicted class. It is None for a model that cannot; note is a sentence on the
    evidence, or why there is none.
    """

    labels: Sequence[str]
    compute: Callable[[list[bytes]], Sequence[Answer]]
    abstains: bool = False
    explain: Callable[..., Sequence[Answer]] | None = None
    note: str = "The evidence at each place is not known, as the model is not one of a run."


def load_export(export: Path) -> Classifier:
    """Return the classifier of an export's version folder; raises UserError for one that serves no images."""
    check_export(export)
    # In a session, as loading functions takes two seconds longer, and as values within the graph can be fed.
    session = v1.Session(graph=tf.Graph())
    try:
        with plain_folder(export) as plain, session.graph.as_default():
            model = v1.saved_model.load(session, [tf.saved_model.SERVING], str(plain))
    except (OSError, RuntimeError, tf.errors.OpError) as error:
        reason = str(error).splitlines()[0].rstrip(". ")
        raise UserError(f"The SavedModel '{export}' cannot be loaded ({reason}): export it again.") from error
    labels = export / "assets" / "labels.txt"
    signatures = (model.signature_def[name] for name in (features.SERVING_SIGNATURE, features.EXPLAIN_SIGNATURE))
    served, explained = ([_name_tensors(side) for side in (one.inputs, one.outputs)] for one in signatures)
    if not served[0] or not labels.exists():
        raise UserError(
            f"The SavedModel '{export}' was not exported by topgraft, as it lacks signature or labels: export it again."
        )
    if features.IMAGE_BYTES not in served[0]:
        raise UserError(f"The SavedModel '{export}' takes bottlenecks only: run with a backbone that has a network.")

    def compute(encoded: list[bytes]) -> list[Answer]:
        return _make_answers(session.run(served[1], {served[0][features.IMAGE_BYTES]: encoded}))

    def explain(encoded: list[bytes], wanted: Sequence[Sequence[str]] = (("",),)) -> list[Answer]:
        # The network is computed once, however many classes there are.
        tensors = list_maps(session.graph, SCOPE)
        maps = dict(zip(tensors, session.run(tensors, {served[0][features.IMAGE_BYTES]: encoded}), strict=True))
        columns = [[name.encode("utf-8", "surrogateescape") for name in column] for column in zip(*wanted, strict=True)]
        outputs = [session.run(explained[1], {**maps, explained[0][features.CLASS]: column}) for column in columns]
        evidence = np.stack([part[features.EVIDENCE] for part in outputs], 1)
        return [
            answer._replace(evidence=part) for answer, part in zip(_make_answers(outputs[0]), evidence, strict=True)
        ]

    text = labels.read_text(encoding="utf-8", errors="surrogateescape").split("\n")[:-1]
    return Classifier(
        text, compute, features.ABSTAINED in served[1], explain if explained[0] else None, read_note(export)
    )


def _name_tensors(tensors: Mapping[str, Any]) -> dict[str, str]:
    return {name: tensor.name for name, tensor in tensors.items()}


def _make_answers(outputs: dict[str, np.ndarray]) -> list[Answer]:
    probabilities = outputs[features.PROBABILITIES]
    abstained = outputs[features.ABSTAINED].tolist() if features.ABSTAINED in outputs else [None] * len(probabilities)
    return [Answer(*pair) for pair in zip(probabilities, abstained, strict=True)]


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


def predict_each(compute: Callable[[list[Any]], Sequence[Answer]], encoded: list[Any]) -> Sequence[Answer | str]:
    """Return for each of N encoded images its answer, or the reason why the model cannot read it.

    An image may be a tuple of its bytes and what else compute takes.
    """
    if not encoded:
        return []
    try:
        return compute(encoded)
    except tf.errors.InvalidArgumentError:
        if len(encoded) == 1:
            return [_explain(encoded[0] if isinstance(encoded[0], bytes) else encoded[0][0])]
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
