"""Frozen GraphDefs: the published Inception networks, downloaded on first use, and files of the user."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.python.framework import op_def_registry

from components.backbones.network import Network, imagenet_class_names, tensor_name
from components.backbones.spec import FROZEN, Spec, unknown
from components.errors import UserError
from components.storage.archives import unpack
from components.storage.downloads import cache_folder, fetch
from components.storage.places import as_path
from components.terminal.progress import Progress

# A frozen graph is a program. One from an unknown source may compute, but must not use files, the network, Python or
# this process. Operations that TensorFlow calls stateful can do so, except these, whose state stays in the graph.
STATEFUL = re.compile(
    r"StatefulPartitionedCall|If|While|Case|Assert|CheckNumerics(V2)?|GuaranteeConst|Empty|Multinomial|"
    r"(Parameterized)?TruncatedNormal|Random(Uniform|UniformInt|StandardNormal|Gamma|PoissonV2|Shuffle|Crop)|"
    r"SampleDistortedBoundingBox(V2)?|TensorArray.*|Stack(Push|Pop|Close)?V2|VarHandleOp|VariableV2|VariableShape|"
    r"(Read|Assign)VariableOp|HashTableV2|InitializeTableV2|LookupTable(Find|Import|Size)V2"
)
# In 2.15, these are called stateless but read files, dump tensors, run foreign code or end the process.
STATELESS_FORBIDDEN = re.compile(
    r"ReadFile|MatchingFiles|ShardedFile.*|ImmutableConst|InitializeTableFromTextFile|GenerateVocabRemapping|Decode"
    r"ProtoV2|EncodeProto|.*Dataset.*|Reader.*|.*Queue.*|Debug.*|Copy|CopyHost|PyFunc.*|XlaCustomCall.*|Abort|"
    r"TRTEngineOp|TfLiteSubgraphExecute|Batch|BatchFunction|Unbatch"
)


def build_downloaded(name: str, progress: Progress) -> Network:
    """Return a published network, downloaded into the cache on first use; raises UserError for a bad archive."""
    known = FROZEN[name]
    archive = fetch(known.remote, progress.report_bytes)
    folder = unpack(archive, cache_folder() / "networks" / name)
    files = sorted(folder.rglob("*.pb"), key=lambda file: file.stat().st_size)
    if not files:
        raise UserError(f"'{archive}' has no .pb file: expected the frozen graph of {name}; delete it and run again.")
    graph_def, labels = read_graph_def(files[-1]), read_network_labels(folder)
    pixels = known.input, known.bottleneck, known.size, known.shift, known.divisor
    return Network(graph_def, *pixels, known.probabilities, known.flattened, known.legacy_resize, labels)


def build_from_file(spec: Spec) -> Network:
    """Return the network of a user's GraphDef file; the default size is that of the input tensor.

    Raises UserError for a bad file, an unknown input, or an input of any size without spec.size.
    """
    assert spec.frozen_graph and spec.input
    graph_def = read_graph_def(as_path(spec.frozen_graph))
    size = spec.size or _input_size(graph_def, spec.input)
    return Network(graph_def, spec.input, spec.bottleneck or spec.layer or "", size, *spec.shift_and_divisor)


def _input_size(graph_def: Any, name: str) -> int:
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(graph_def, name="")
    try:
        shape = graph.get_tensor_by_name(tensor_name(name)).shape
    except (KeyError, ValueError):
        inputs = [f"{op.name} {op.outputs[0].shape}" for op in graph.get_operations() if op.type == "Placeholder"]
        raise UserError(unknown("tensor", name, inputs or ["(no placeholder)"])) from None
    if shape.rank != 4 or shape[1] is None:
        raise UserError(f"The tensor '{name}' has shape {shape}: set backbone.size to the side of the input in pixels.")
    return int(shape[1])


def read_graph_def(path: Path) -> Any:
    """Return the GraphDef of a file.

    Raises UserError for another file, an empty graph, and operations that do more than compute.
    """
    graph_def = tf.compat.v1.GraphDef()
    try:
        graph_def.ParseFromString(path.read_bytes())
    except Exception as error:  # protobuf raises DecodeError, and bare exceptions of its C++ core
        raise UserError(f"'{path}' is not a frozen GraphDef ({error}): expected a binary .pb file.") from error
    functions = {function.signature.name for function in graph_def.library.function}
    inner = [node for function in graph_def.library.function for node in function.node_def]
    for node in [*graph_def.node, *inner]:
        if not _only_computes(node.op) and not (node.op in functions and op_def_registry.get(node.op) is None):
            raise UserError(
                f"'{path}' has the operation {node.op[:100]!r} ({node.name[:100]!r}), which does more than compute: "
                f"use a graph without it."
            )
    if not graph_def.node:
        raise UserError(f"'{path}' is an empty graph: expected a frozen GraphDef.")
    return graph_def


def _only_computes(name: str) -> bool:
    operation = op_def_registry.get(name)
    if operation is None or STATELESS_FORBIDDEN.fullmatch(name):
        return False
    return not operation.is_stateful or STATEFUL.fullmatch(name) is not None


def read_network_labels(folder: Path) -> tuple[str, ...]:
    """Return class names by index: from the two maps of the 2015 archive, a labels file, or the ImageNet classes."""
    maps = list(folder.rglob("imagenet_2012_challenge_label_map_proto.pbtxt"))
    if maps:
        synsets = maps[0].with_name("imagenet_synset_to_human_label_map.txt")
        return parse_label_maps(maps[0].read_text(), synsets.read_text())
    files = sorted(folder.rglob("*labels*.txt"))
    return tuple(files[0].read_text(encoding="utf-8").splitlines()) if files else imagenet_class_names(1001)


def parse_label_maps(classes: str, synsets: str) -> tuple[str, ...]:
    """Return class names by number from a map of number to synset (pbtxt) and one of synset to name (tab separated).

    A number without a class has the name ''.
    """
    names = dict(line.split("\t", 1) for line in synsets.splitlines() if "\t" in line)
    pairs = re.findall(r'target_class:\s*(\d+)\s*target_class_string:\s*"(\w+)"', classes)
    numbered = {int(number): names.get(synset, synset).strip() for number, synset in pairs}
    return tuple(numbered.get(number, "") for number in range(max(numbered, default=-1) + 1))
