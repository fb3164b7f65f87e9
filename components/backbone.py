"""The canonical backbone: one frozen graph from image bytes to bottleneck, preprocessing inside."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.ops import control_flow_util

from components import efficientnet_lite, features
from components.catalog import EMBEDDED, check_backbone
from components.files import replacing_folder, write_json

# Images decoded side by side inside one call of the graph.
DECODED_IN_PARALLEL = 16


@dataclass(frozen=True)
class Backbone:
    """What backbone.json holds: size is the side of the square input in pixels, dim the width of the bottleneck."""

    name: str
    id: str
    size: int
    dim: int
    own_classes: int


def prepare_backbone(name: str, folder: Path) -> Backbone:
    """Write <folder>/<id>/graph.pb and backbone.json for a named backbone; raises UserError for an unknown name."""
    check_backbone(name)
    lite = EMBEDDED[name]
    weights = efficientnet_lite.load_weights(lite)
    with _v1_control_flow(), tf.Graph().as_default() as graph:
        pixels = add_decoding(lite.size, efficientnet_lite.SHIFT, efficientnet_lite.SCALE)
        bottleneck, probabilities = efficientnet_lite.add_network(pixels, weights, lite.depth)
        tf.identity(bottleneck, features.BOTTLENECK)
        tf.identity(probabilities, features.PROBABILITIES)
    return write_backbone(name, graph, folder)


def add_decoding(size: int, shift: float, scale: float) -> tf.Tensor:
    """Add the placeholder image_bytes string[N]; return pixels float32[N, size, size, 3], (value - shift) / scale."""
    image_bytes = tf.compat.v1.placeholder(tf.string, [None], features.IMAGE_BYTES)

    def decode(encoded: tf.Tensor) -> tf.Tensor:
        image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
        image.set_shape([None, None, 3])
        return tf.image.resize(image, [size, size])

    images = tf.map_fn(decode, image_bytes, fn_output_signature=tf.float32, parallel_iterations=DECODED_IN_PARALLEL)
    images = tf.ensure_shape(images, [None, size, size, 3])
    return tf.multiply(images - shift, 1 / scale, features.PIXELS)


@contextmanager
def _v1_control_flow() -> Iterator[None]:
    # Version 2 loops carry function names numbered across the process: the graph's hash would not be the same twice.
    before = control_flow_util.ENABLE_CONTROL_FLOW_V2
    tf.compat.v1.disable_control_flow_v2()
    try:
        yield
    finally:
        control_flow_util.ENABLE_CONTROL_FLOW_V2 = before


def write_backbone(name: str, graph: tf.Graph, folder: Path) -> Backbone:
    """Write a graph that has the canonical tensors below <folder>/<id>; its id is the hash of the graph."""
    content = graph.as_graph_def().SerializeToString(deterministic=True)
    own = [operation for operation in graph.get_operations() if operation.name == features.PROBABILITIES]
    backbone = Backbone(
        name=name,
        id=hashlib.sha256(content).hexdigest()[:16],
        size=graph.get_tensor_by_name(f"{features.PIXELS}:0").shape[1],
        dim=graph.get_tensor_by_name(f"{features.BOTTLENECK}:0").shape[-1],
        own_classes=own[0].outputs[0].shape[-1] if own else 0,
    )
    with replacing_folder(folder / backbone.id) as partial:
        (partial / "graph.pb").write_bytes(content)
        write_json(partial / "backbone.json", asdict(backbone))
    return backbone


def read_backbone(folder: Path) -> Backbone:
    """Return what backbone.json says."""
    return Backbone(**json.loads((folder / "backbone.json").read_text(encoding="utf-8")))


def load_graph(folder: Path) -> tf.compat.v1.GraphDef:
    """Return the frozen graph of a prepared backbone."""
    graph_def = tf.compat.v1.GraphDef()
    graph_def.ParseFromString((folder / "graph.pb").read_bytes())
    return graph_def


class BackboneSession:
    """A loaded backbone; safe to call from several threads."""

    def __init__(self, folder: Path):
        with tf.Graph().as_default() as graph:
            tf.import_graph_def(load_graph(folder), name="")
        self._session = tf.compat.v1.Session(graph=graph)

    def compute_bottlenecks(self, image_bytes: list[bytes]) -> np.ndarray:
        """Map encoded images to float32[N, dim]."""
        return self.run(features.BOTTLENECK, features.IMAGE_BYTES, image_bytes)

    def run(self, output: str, source: str, value: Any) -> np.ndarray:
        """Return one named tensor of the graph for a value of another."""
        return self._session.run(f"{output}:0", {f"{source}:0": value})
