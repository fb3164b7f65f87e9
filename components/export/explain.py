"""The signature explain: the evidence for a class at each place of an image, from the backbone's maps and the head.

For a linear head it is exact, as in class activation maps (Zhou et al. 2016): its mean over places is the class's logit
but for a constant of the class. The length that an image's bottleneck is divided by counts as a constant factor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from components.backbones.maps import NoMaps, list_maps
from components.features import CLASS, EVIDENCE, EXPLAIN_SIGNATURE, INDEX
from components.train.model import TRAINING_SCOPE, HeadParams, model_fn
from components.train.settings import SIGMOID, Architecture

v1 = tf.compat.v1

# Where the backbone stands in the graph of an export.
SCOPE = "backbone/"
EXACT = "The evidence is exact: its mean over all places is the logit of the class, less a constant of the class."
BY_GRADIENT = "The evidence is not exact: the head has hidden layers, so it is the maps times the logit's gradient."
EXPLAINED = (EXACT, BY_GRADIENT)


def describe_evidence(graph_def: Any | None, architecture: Architecture) -> tuple[bool, str]:
    """Return whether an export of a canonical backbone and a head can have the signature, and a sentence on it."""
    if graph_def is None:
        return False, "The evidence at each place is not known, as the bottlenecks are ready-made."
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(graph_def, name="")
    try:
        list_maps(graph)
    except NoMaps as reason:
        return False, f"The evidence at each place is not known for this backbone: {reason}."
    return True, BY_GRADIENT if architecture.hidden else EXACT


def explaining_model_fn(
    views: np.ndarray, features: dict[str, tf.Tensor], labels: None, mode: str, params: dict[str, Any]
) -> tf.estimator.EstimatorSpec:
    """Build the head as model_fn does, with one more output: the evidence for the classes in features[CLASS].

    The backbone stands in the default graph below SCOPE and is computed on views float32[V, 5] of each image.
    """
    spec, head = model_fn(features, labels, mode, params), params["head"]
    graph = v1.get_default_graph()
    logits = graph.get_tensor_by_name(f"{TRAINING_SCOPE}/logits:0")
    with tf.name_scope(EXPLAIN_SIGNATURE):
        index = find_classes(features[CLASS], spec.predictions[INDEX], head)
        wanted = tf.one_hot(index, head.classes)
        if head.architecture.output == SIGMOID:  # its logits are (0, z): the first class has -z, what speaks against z
            wanted = 2 * wanted - 1
        evidence = add_evidence(tf.reduce_sum(logits * wanted), list_maps(graph, SCOPE), views)
    explained = tf.estimator.export.PredictOutput({**spec.predictions, EVIDENCE: evidence})
    return spec._replace(export_outputs={**spec.export_outputs, EXPLAIN_SIGNATURE: explained})


def find_classes(names: tf.Tensor, predicted: tf.Tensor, head: HeadParams) -> tf.Tensor:
    """Map names string[N] or string[1] to classes int64[N], '' to the predicted one int64[N]; others are an error."""
    initializer = tf.lookup.TextFileInitializer(
        head.labels_file, tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER
    )
    names = tf.broadcast_to(names, tf.shape(predicted))
    found = tf.where(tf.equal(names, ""), predicted, tf.lookup.StaticHashTable(initializer, -1).lookup(names))
    unknown = tf.boolean_mask(names, found < 0)
    message = f"This model has no class of this name; expected one of its {head.classes} labels or '':"
    with tf.control_dependencies([tf.debugging.Assert(tf.equal(tf.size(unknown), 0), [message, unknown])]):
        return tf.identity(found)


def add_evidence(score: tf.Tensor, maps: Sequence[tf.Tensor], views: np.ndarray) -> tf.Tensor:
    """Return the evidence float32[N, h, w] that maps float32[N * V, h, w, C] of V views give for a sum of logits.

    Each map lies where its view lies, at the size of the largest; its sum stays as it is.
    """
    # Lengths are constant factors, and maps of one layer are not the evidence of those before it.
    lengths = [operation.outputs[0] for operation in score.graph.get_operations() if operation.type == "Rsqrt"]
    gradients = tf.gradients(score, maps, stop_gradients=[*lengths, *maps])
    height, width = (max(values.shape[side] for values in maps) for side in (1, 2))
    placed = []
    for values, gradient in zip(maps, gradients, strict=True):
        h, w = values.shape[1:3]
        evidence = tf.reshape(tf.reduce_sum(values * gradient, -1) * (h * w), [-1, len(views), h, w])
        rows = [spread_cells(top, bottom, h, height) for top, _, bottom, _, _ in views]
        columns = [spread_cells(left, right, w, width) for _, left, _, right, _ in views]
        columns = [part[:, ::-1] if view[4] else part for part, view in zip(columns, views, strict=True)]
        placed.append(tf.einsum("nvhw,vih,vjw->nij", evidence, np.stack(rows), np.stack(columns)))
    return tf.add_n(placed, EVIDENCE)


def spread_cells(start: float, end: float, cells: int, canvas: int) -> np.ndarray:
    """Return the matrix float32[canvas, cells] that lays cells on the part from start to end of a line of length 1.

    Each cell is spread over the cells of the canvas that it covers; the mean of the line is that of the cells.
    """
    edges, lines = np.linspace(start, end, cells + 1), np.linspace(0, 1, canvas + 1)[:, None]
    covered = np.minimum(edges[1:], lines[1:]) - np.maximum(edges[:-1], lines[:-1])
    return (np.maximum(covered, 0) / (end - start) * canvas).astype(np.float32)
