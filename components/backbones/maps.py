"""The maps of a backbone: its last values that have a place in the image, before they are pooled to the bottleneck."""

from __future__ import annotations

import math

import tensorflow as tf

from components.features import BOTTLENECK

# Operations that may stand between maps and bottleneck. Together they must have degree 1: twice the maps give twice the
# bottleneck. Then the sum of maps times gradients is the bottleneck (Euler's theorem), for means and maxima alike.
POOLING = ("Identity", "Squeeze", "Reshape", "Mean", "Max", "AvgPool", "MaxPool", "Pow", "Maximum")


class NoMaps(Exception):
    """A backbone whose bottleneck is not pooled from maps; the text is a clause that says why."""


def list_maps(graph: tf.Graph, scope: str = "") -> list[tf.Tensor]:
    """Return the maps float32[N * V, h, w, C], h and w fixed, of each part of the bottleneck of a graph in a scope.

    Raises NoMaps.
    """
    return _find_maps(graph.get_tensor_by_name(f"{scope}{BOTTLENECK}:0"), 1.0)


def _find_maps(tensor: tf.Tensor, degree: float) -> list[tf.Tensor]:
    operation = tensor.op
    if _has_places(tensor) and operation.type != "Pow":
        if not math.isclose(degree, 1, rel_tol=1e-5):
            raise NoMaps(f"its bottleneck is the power {degree:g} of a mean of maps")
        return [tensor]
    if operation.type == "ConcatV2":
        return [maps for part in operation.inputs[:-1] for maps in _find_maps(part, degree)]
    if not _is_scaling(operation) and not _pools(operation):
        raise NoMaps(f"its bottleneck comes from {operation.type} '{operation.name}', not from a mean of maps")
    if operation.type == "Pow":
        degree *= float(tf.get_static_value(operation.inputs[1]))
    return _find_maps(operation.inputs[0], degree)


def _is_scaling(operation: tf.Operation) -> bool:
    """Tell whether an operation divides vectors by their lengths, or multiplies by a constant number."""
    return operation.type == "Mul" and (operation.inputs[1].op.type == "Rsqrt" or operation.inputs[1].shape.rank == 0)


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
