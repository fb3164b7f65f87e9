"""The maps of a backbone: its last values that have a place in the image, before they are pooled to the bottleneck."""

from __future__ import annotations

import math
import re

import tensorflow as tf

from components.features import BOTTLENECK

# Operations that may stand between maps and bottleneck. Together they must have degree 1: twice the maps give twice the
# bottleneck. Then the sum of maps times gradients is the bottleneck (Euler's theorem), for means and maxima alike.
POOLING = ("Identity", "Squeeze", "Reshape", "Mean", "Max", "AvgPool", "MaxPool", "Pow", "Maximum")


class NoMaps(Exception):
    """A backbone whose bottleneck is not pooled from maps; the text is a clause that says why."""


def list_maps(graph: tf.Graph, scope: str = "") -> list[tf.Tensor]:
    """Return the maps float32[N * V, h, w, C], h and w fixed, of each network of a canonical graph below a scope.

    Raises NoMaps.
    """
    names = [operation.name for operation in graph.get_operations()]
    parts = [name for name in names if re.fullmatch(rf"{scope}part\d+/{BOTTLENECK}", name)]
    return [_find_maps(graph.get_tensor_by_name(f"{name}:0")) for name in parts or [f"{scope}{BOTTLENECK}"]]


def _find_maps(tensor: tf.Tensor) -> tf.Tensor:
    degree = 1.0
    while not _has_places(tensor) or tensor.op.type == "Pow":
        operation = tensor.op
        if not _pools(operation):
            raise NoMaps(f"its bottleneck comes from {operation.type} '{operation.name}', not from a mean of maps")
        if operation.type == "Pow":
            degree *= float(tf.get_static_value(operation.inputs[1]))
        tensor = operation.inputs[0]
    if not math.isclose(degree, 1, rel_tol=1e-5):
        raise NoMaps(f"its bottleneck is the power {degree:g} of a mean of maps")
    return tensor


def _has_places(tensor: tf.Tensor) -> bool:
    shape = tensor.shape
    return shape.rank == 4 and shape[1:].is_fully_defined() and shape[1] * shape[2] > 1


def _pools(operation: tf.Operation) -> bool:
    """Tell whether an operation only pools places, or leaves the values of each image as they are."""
    if operation.type not in POOLING or not operation.inputs[0].shape.rank:
        return False
    values, result = (tensor.shape[1:] for tensor in (operation.inputs[0], operation.outputs[0]))
    if operation.type in ("Mean", "Max"):
        axes = tf.get_static_value(operation.inputs[1])
        return values.rank == 3 and axes is not None and sorted(axes.ravel() % 4) == [1, 2]
    if operation.type in ("AvgPool", "MaxPool"):
        return operation.get_attr("data_format") == b"NHWC"
    if operation.type in ("Pow", "Maximum"):
        return tf.get_static_value(operation.inputs[1]) is not None
    return values.is_fully_defined() and values.num_elements() == result.num_elements()  # so no image joins another
