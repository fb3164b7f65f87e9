"""Trainable layers of a frozen backbone: constants become variables, and trained values become constants."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from components.backbones.network import find_tensor
from components.errors import UserError
from components.features import BOTTLENECK, PIXELS

v1 = tf.compat.v1

# Inputs that may be weights, by operation: of layers with a kernel, and of shifts and scales after these.
KERNELS = {
    **dict.fromkeys(("Conv2D", "DepthwiseConv2dNative"), (1,)),
    **dict.fromkeys(("MatMul", "BatchMatMulV2", "Einsum"), (0, 1)),
}
FUSED, OF_2015 = ("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3"), "BatchNormWithGlobalNormalization"
AFFINE = {
    **dict.fromkeys(("Add", "AddV2", "Sub", "Mul"), (0, 1)),
    **{"BiasAdd": (1,), **dict.fromkeys(FUSED, (1, 2)), OF_2015: (3, 4)},
}
# Inputs with the mean and variance of a batch norm, which are never trained.
NORM_STATISTICS = {**dict.fromkeys(FUSED, (3, 4)), OF_2015: (1, 2)}

# Inputs through which the search for a weight continues. A batch norm written out is x * scale + (beta - mean * scale)
# with scale = gamma * rsqrt(variance + epsilon): so gamma and beta are found and no other.
PASSED = {**dict.fromkeys(("Identity", "Reshape", "Transpose", "Sub", "RealDiv"), (0,)), "Mul": (0, 1)}


class Operation(NamedTuple):
    """An operation between pixels and bottleneck, its inputs, and the constants among these by role."""

    name: str
    sources: set[str]
    weights: list[str]
    has_kernel: bool
    constants: set[str]
    statistics: set[str]


def weights_of_last(graph_def: Any, layers: int) -> list[str]:
    """Return the names of the weights of a canonical graph's last layers with a kernel, in the graph's order.

    Raises UserError where the backbone has fewer layers.
    """
    operations = list_operations(graph_def)
    kernels = [operation.name for operation in operations if operation.has_kernel]
    if layers > len(kernels):
        raise UserError(
            f"train.finetune.layers is {layers}, but the backbone has {len(kernels)} layers with a kernel: "
            f"set it to {len(kernels)} or less."
        )
    return _list_weights(operations, _follow(operations, set(kernels[len(kernels) - layers :])))


def weights_after(graph_def: Any, start: str) -> list[str]:
    """Return the names of a canonical graph's weights after a layer or tensor, in the graph's order.

    Raises UserError for an unknown layer or tensor, and where no weights come after it.
    """
    operations = list_operations(graph_def)
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(graph_def, name="")
    begin = {find_tensor(graph, start, "network").op.name}
    weights = _list_weights(operations, _follow(operations, begin) - begin)
    if not weights:
        raise UserError(
            f"There are no weights between '{start}' and the bottleneck: set train.finetune.from to an earlier layer."
        )
    return weights


def list_operations(graph_def: Any) -> list[Operation]:
    """Return the operations from a canonical graph's pixels to its bottleneck, inputs before their users.

    Raises UserError for a graph that joins several backbones.
    """
    if PIXELS not in {node.name for node in graph_def.node}:
        raise UserError("train.finetune takes a single backbone, but this one joins several: name one as backbone.")
    nodes = {node.name: node for node in _cut_network(graph_def, {PIXELS}).node}
    computed, operations = {PIXELS}, []

    def read(node: Any, places: Mapping[str, Sequence[int]]) -> list[str]:
        # Only inputs that are equal for all images; the others are outputs of layers.
        sources = _list_sources(node)
        return [sources[place] for place in places.get(node.op, ()) if sources[place] not in computed]

    for node in nodes.values():
        sources = set(_list_sources(node))
        if not sources & computed:
            continue
        kernels, others = _find_weights(nodes, read(node, KERNELS), 2), _find_weights(nodes, read(node, AFFINE), 1)
        constants = _find_needed(nodes, sources - computed, ())
        statistics = _find_needed(nodes, read(node, NORM_STATISTICS), ())
        operations.append(Operation(node.name, sources, kernels + others, bool(kernels), constants, statistics))
        computed.add(node.name)
    return operations


def _list_sources(node: Any) -> list[str]:
    return [name.lstrip("^").partition(":")[0] for name in node.input]


def _find_needed(nodes: Mapping[str, Any], outputs: Collection[str], given: Collection[str]) -> set[str]:
    """Return the names of all nodes that the outputs need, themselves included, without the given ones."""
    needed, left = set(), list(outputs)
    while left:
        name = left.pop()
        if name not in needed and name not in given:
            needed.add(name)
            left += _list_sources(nodes[name])
    return needed


def _find_weights(nodes: Mapping[str, Any], sources: Sequence[str], rank: int) -> list[str]:
    """Return the names of the float32 constants of at least a rank that feed some inputs of an operation."""
    found = []
    for name in sources:
        node, inputs = nodes[name], _list_sources(nodes[name])
        tensor = node.attr["value"].tensor
        if node.op == "Const" and tensor.dtype == tf.float32.as_datatype_enum and len(tensor.tensor_shape.dim) >= rank:
            found.append(name)
        found += _find_weights(nodes, [inputs[place] for place in PASSED.get(node.op, ())], rank)
    return found


def _follow(operations: Sequence[Operation], start: set[str]) -> set[str]:
    """Return the names of the start and of all operations that depend on it."""
    reached = set(start)
    for operation in operations:
        if operation.sources & reached:
            reached.add(operation.name)
    return reached


def _list_weights(operations: Sequence[Operation], trained: set[str]) -> list[str]:
    # Shifts and scales before the first kernel are preprocessing.
    layers = _follow(operations, {operation.name for operation in operations if operation.has_kernel})
    # A constant that an untrained operation also reads must not change.
    kept = set().union(*(op.statistics if op.name in trained else op.constants for op in operations))
    names = [name for op in operations if op.name in trained & layers for name in op.weights if name not in kept]
    return list(dict.fromkeys(names))


def add_trainable(graph_def: Any, pixels: tf.Tensor, weights: Sequence[str]) -> tuple[tf.Tensor, dict[str, Any]]:
    """Add the network of a canonical graph over pixels float32[N, S, S, 3], some of its constants as variables.

    Return the bottleneck float32[N, D] and the variables by the constants' names. They start at zero, to keep their
    values out of the graph: set them to the result of read_constants.
    """
    part = _cut_network(graph_def, {PIXELS, *weights})
    tensors = {node.name: node.attr["value"].tensor for node in graph_def.node if node.name in set(weights)}
    variables = {
        name: v1.get_variable(name, tensors[name].tensor_shape, tf.float32, v1.zeros_initializer()) for name in weights
    }
    inputs = {f"{name}:0": variable.read_value() for name, variable in variables.items()}
    (bottleneck,) = tf.import_graph_def(part, {f"{PIXELS}:0": pixels, **inputs}, [f"{BOTTLENECK}:0"], name="backbone")
    return bottleneck, variables


def _cut_network(graph_def: Any, given: Collection[str]) -> Any:
    """Return the trainable part of a canonical graph that computes its bottleneck from the given nodes."""
    needed = _find_needed({node.name: node for node in graph_def.node}, [BOTTLENECK], given)
    part = v1.GraphDef(versions=graph_def.versions, library=graph_def.library)
    part.node.extend(node for node in graph_def.node if node.name in needed)
    for node in part.node:
        inputs = [source for source in node.input if not (source.startswith("^") and source[1:] in given)]
        del node.input[:]
        node.input.extend(inputs)
        # It names a gradient in the process that froze the graph; without it the operation's usual one is taken.
        node.attr.pop("_gradient_op_type", None)
    _replace_compiled(part)
    return part


def _replace_compiled(part: Any) -> None:
    """Turn Keras's compiled convolutions of one group per channel into depthwise ones, with a gradient on CPUs."""
    bodies = {}
    for function in part.library.function:
        arguments = [argument.name for argument in function.signature.input_arg]
        kernel = [dim.size for shape in function.arg_attr[1].attr["_output_shapes"].list.shape for dim in shape.dim]
        for inner in function.node_def:
            if inner.op == "Conv2D" and list(inner.input) == arguments and kernel[2:3] == [1]:
                bodies[function.signature.name] = inner
    for node in [node for node in part.node if node.attr["f"].func.name in bodies]:
        convolution = bodies[node.attr["f"].func.name]
        # The kernel [H, W, 1, C] as [H, W, C, 1].
        axes = part.node.add(name=f"{node.name}/axes", op="Const")
        axes.attr["value"].tensor.CopyFrom(tf.make_tensor_proto([0, 1, 3, 2]))
        kernel = part.node.add(name=f"{node.name}/kernel", op="Transpose", input=[node.input[1], axes.name])
        kernel.attr["T"].type = tf.float32.as_datatype_enum
        axes.attr["dtype"].type = kernel.attr["Tperm"].type = tf.int32.as_datatype_enum
        node.op, node.input[1] = "DepthwiseConv2dNative", kernel.name
        node.attr.clear()
        for name in ("T", "strides", "padding", "explicit_paddings", "data_format", "dilations"):
            node.attr[name].CopyFrom(convolution.attr[name])


def read_constants(graph_def: Any, names: Collection[str]) -> dict[str, np.ndarray]:
    """Return the values of some constants of a graph by name."""
    return {node.name: tf.make_ndarray(node.attr["value"].tensor) for node in graph_def.node if node.name in {*names}}


def replace_constants(graph_def: Any, values: Mapping[str, np.ndarray]) -> Any:
    """Return a copy of a graph with new values of some constants, float32 of the same shapes; raises TypeError."""
    replaced = copy.deepcopy(graph_def)
    for node in replaced.node:
        if node.name in values:
            tensor = node.attr["value"].tensor
            shape = tf.TensorShape(tensor.tensor_shape)
            tensor.CopyFrom(tf.make_tensor_proto(values[node.name], tf.float32, shape, verify_shape=True))
    return replaced
