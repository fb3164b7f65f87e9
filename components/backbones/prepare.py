"""The backbone: one frozen graph from image bytes to bottleneck, which includes the preprocessing."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.ops import control_flow_util

from components import features
from components.backbones.network import Network, find_tensor, join, pool, tensor_name
from components.backbones.precomputed import ImportedBottlenecks
from components.backbones.preprocessing import add_decoding
from components.backbones.spec import EMBEDDED, Spec, source_files
from components.backbones.views import WHOLE
from components.errors import DamagedFile, UserError
from components.storage.downloads import cache_folder
from components.storage.files import fingerprint_file, locked, read_json, write_json
from components.storage.ownership import replacing_folder
from components.terminal.progress import Progress

GRAPH_FILE, JSON_FILE = "graph.pb", "backbone.json"


@dataclass(frozen=True)
class Backbone:
    """The content of backbone.json: dim is the width of the bottleneck, size the side of the input in pixels, None for
    several inputs; labels are the classes of the backbone's own head; source is fingerprint_source of its specs."""

    name: str
    id: str
    dim: int
    size: int | None
    labels: tuple[str, ...]
    source: str = ""


def prepare_backbone(specs: Sequence[Spec], folder: Path, progress: Progress, own_classes: bool = False) -> Backbone:
    """Write <folder>/<id>/graph.pb and backbone.json for one network, or for several with concatenated bottlenecks.

    own_classes includes the ImageNet top of Keras applications; other networks always include theirs. Raises UserError
    if a source, a layer or a tensor is not available.
    """
    source = fingerprint_source(specs, own_classes)
    prepared = find_prepared(folder, source)
    if prepared:
        return prepared
    networks = [(build_network(spec, progress, own_classes), spec) for spec in specs]
    with _v1_control_flow(), tf.Graph().as_default() as graph:
        image_bytes = tf.compat.v1.placeholder(tf.string, [None], features.IMAGE_BYTES)
        views = tf.compat.v1.placeholder_with_default(WHOLE, [None, 5], features.VIEWS)
        parts = []
        for number, (network, spec) in enumerate(networks):
            with tf.name_scope(f"part{number}") if len(networks) > 1 else nullcontext():
                parts.append(add_network(image_bytes, views, network, spec))
        if len(parts) > 1:
            join(parts, features.BOTTLENECK)
    labels = networks[0][0].labels if len(networks) == 1 else ()
    name = "+".join(network.title or spec.title for network, spec in networks)
    return write_backbone(name, graph, labels, source, folder)


def prepare_cached(specs: Sequence[Spec], progress: Progress, own_classes: bool = False) -> tuple[Backbone, Path]:
    """Return a backbone and its folder in the user's cache; of concurrent processes, one prepares it."""
    folder = cache_folder() / "backbones"
    backbone = find_prepared(folder, fingerprint_source(specs, own_classes))
    if not backbone:
        with locked(folder):
            backbone = prepare_backbone(specs, folder, progress, own_classes)
    return backbone, folder / backbone.id


def fingerprint_source(specs: Sequence[Spec], own_classes: bool) -> str:
    """Return a hash of specs, their files, the version of TensorFlow and our code, which decide a prepared backbone."""
    here = Path(__file__).parent
    code = [*sorted(here.glob("*.py")), *sorted((here.parent / "images").glob("*.py"))]
    files = [fingerprint_file(path) for path in (*source_files(tuple(specs)), *code)]
    parts = [[asdict(spec) for spec in specs], own_classes, files, tf.__version__]
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:16]


def find_prepared(folder: Path, source: str) -> Backbone | None:
    """Return the undamaged backbone below a folder with this fingerprint_source, None without one."""
    for made in folder.glob(f"*/{JSON_FILE}"):
        try:
            backbone = read_backbone(made.parent)
            if made.parent.name != backbone.id:  # another process still writes it
                continue
            if backbone.source == source and _identify((made.parent / GRAPH_FILE).read_bytes()) == backbone.id:
                return backbone
        except (DamagedFile, FileNotFoundError):  # the caller writes it again
            continue
    return None


def _identify(graph: bytes) -> str:
    return hashlib.sha256(graph).hexdigest()[:16]


def build_network(spec: Spec, progress: Progress, own_classes: bool) -> Network:
    """Return the network of a spec; raises UserError if it is not available."""
    if spec.name in EMBEDDED:
        from components.backbones.efficientnet_lite import build_lite

        return build_lite(spec.name, spec.size)
    if spec.hub:
        from components.backbones.hub import build_module

        return build_module(spec)
    if spec.vit:
        from components.backbones.vit import build_vit

        return build_vit(spec, progress)
    if spec.keras:
        from components.backbones.keras_applications import build_application

        return build_application(spec, own_classes)
    from components.backbones.frozen_graphs import build_downloaded, build_from_file

    return build_downloaded(spec.name, progress) if spec.name else build_from_file(spec)


def add_network(image_bytes: tf.Tensor, views: tf.Tensor, network: Network, spec: Spec) -> tf.Tensor:
    """Add decoding and a network to the default graph; return the bottlenecks float32[N * V, D] of V views of N images.

    Raises UserError for a tensor that is not in the network.
    """
    pixels = add_decoding(image_bytes, views, network)
    scope = tf.compat.v1.get_default_graph().get_name_scope()
    prefix = f"{scope}/network" if scope else "network"
    # The trailing '/' keeps the name as it is. The input can be any tensor of the graph, not only a placeholder.
    inputs = {tensor_name(network.input): pixels}
    try:
        tf.import_graph_def(network.graph_def, inputs, name=f"{prefix}/")
    except ValueError as error:
        raise UserError(
            f"The graph of '{spec.title}' has no tensor '{network.input}' that takes images "
            f"({str(error).splitlines()[0]}): set backbone.input to the tensor that does."
        ) from error
    graph = tf.compat.v1.get_default_graph()
    layer = None if spec.keras or spec.vit else spec.layer  # these end at their layer
    taken = find_tensor(graph, layer or network.bottleneck, prefix)
    bottleneck = tf.identity(pool(taken, spec.pooling), features.BOTTLENECK)
    if network.probabilities and not spec.layer:
        outputs = network.probabilities
        if network.flattened:
            inputs[tensor_name(network.flattened)] = bottleneck
            tf.import_graph_def(network.graph_def, inputs, name=f"{prefix}_head/")
            prefix += "_head"
        tf.identity(find_tensor(graph, outputs, prefix), features.PROBABILITIES)
    return bottleneck


@contextmanager
def _v1_control_flow() -> Iterator[None]:
    # Version 2 loops number their functions across the process, but the graph must have the same hash each time.
    before = control_flow_util.ENABLE_CONTROL_FLOW_V2
    tf.compat.v1.disable_control_flow_v2()
    try:
        yield
    finally:
        control_flow_util.ENABLE_CONTROL_FLOW_V2 = before


def write_backbone(name: str, graph: tf.Graph, labels: tuple[str, ...], source: str, folder: Path) -> Backbone:
    """Write a graph with the tensors that features.py names to <folder>/<id>; its id is the hash of the graph."""
    operations = {operation.name: operation for operation in graph.get_operations()}
    outputs = [output for output in (features.BOTTLENECK, features.PROBABILITIES) if output in operations]
    # The 2015 network has 1008 outputs but fewer names: the others have the name ''.
    width = operations[features.PROBABILITIES].outputs[0].shape[-1] if features.PROBABILITIES in operations else 0
    pruned = tf.compat.v1.graph_util.extract_sub_graph(graph.as_graph_def(), outputs)
    content = pruned.SerializeToString(deterministic=True)
    backbone = Backbone(
        name=name,
        id=_identify(content),
        dim=operations[features.BOTTLENECK].outputs[0].shape[-1],
        size=operations[features.PIXELS].outputs[0].shape[1] if features.PIXELS in operations else None,
        labels=(*labels, *[""] * (width - len(labels))) if labels and width else (),
        source=source,
    )
    return _write_files(backbone, content, folder)


def write_imported(name: str, imported: ImportedBottlenecks, network: Backbone | None, folder: Path) -> Backbone:
    """Write the backbone of ready-made bottlenecks, with the graph of the network that computed them, if given.

    Its id is a hash of the fingerprint of the vectors and the id of that network.
    """
    identity = f"{imported.fingerprint()} {network.id if network else ''}"
    backbone = Backbone(
        name=name,
        id=hashlib.sha256(identity.encode()).hexdigest()[:16],
        dim=imported.dim,
        size=network.size if network else None,
        labels=network.labels if network else (),
    )
    return _write_files(backbone, (folder / network.id / GRAPH_FILE).read_bytes() if network else None, folder)


def _write_files(backbone: Backbone, graph: bytes | None, folder: Path) -> Backbone:
    with replacing_folder(folder / backbone.id, JSON_FILE) as partial:
        if graph is not None:
            (partial / GRAPH_FILE).write_bytes(graph)
        write_json(partial / JSON_FILE, asdict(backbone))
    return backbone


def read_backbone(folder: Path) -> Backbone:
    """Return the content of backbone.json in a folder; raises DamagedFile."""
    names = [field.name for field in fields(Backbone)]
    values = read_json(folder / JSON_FILE, *names)
    return Backbone(**{name: values[name] for name in names} | {"labels": tuple(values["labels"])})


def load_graph(folder: Path) -> Any | None:
    """Return the GraphDef of a prepared backbone, None for ready-made bottlenecks without their network."""
    if not (folder / GRAPH_FILE).exists():
        return None
    graph_def = tf.compat.v1.GraphDef()
    graph_def.ParseFromString((folder / GRAPH_FILE).read_bytes())
    return graph_def


def import_graph(folder: Path) -> tf.Graph:
    """Return a new graph with the one of a prepared backbone."""
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(load_graph(folder), name="")
    return graph


def pixel_tensors(graph: tf.Graph) -> list[str]:
    """Return the names of the tensors of pixels in the graph of a backbone, one per network."""
    names = [operation.name for operation in graph.get_operations()]
    return [name for name in names if re.fullmatch(rf"(part\d+/)?{features.PIXELS}", name)]


class BackboneSession:
    """A loaded backbone; safe to call from several threads."""

    def __init__(self, folder: Path):
        graph = import_graph(folder)
        self._session, self._pixels = tf.compat.v1.Session(graph=graph), pixel_tensors(graph)

    def compute_bottlenecks(self, image_bytes: list[bytes], views: np.ndarray = WHOLE) -> np.ndarray:
        """Map N encoded images and V views float32[V, 5] to bottlenecks float32[N * V, dim], image by image."""
        return self._session.run(f"{features.BOTTLENECK}:0", _feed(image_bytes, views))

    def decode(self, image_bytes: list[bytes], views: np.ndarray = WHOLE) -> list[np.ndarray]:
        """Map N encoded images and V views float32[V, 5] to pixels float32[N * V, S, S, 3] per network, by image."""
        return self._session.run([f"{name}:0" for name in self._pixels], _feed(image_bytes, views))

    def compute_from_pixels(self, pixels: Sequence[np.ndarray]) -> np.ndarray:
        """Map pixels float32[N, S, S, 3] per network to bottlenecks float32[N, dim]."""
        feed = {f"{name}:0": part for name, part in zip(self._pixels, pixels, strict=True)}
        return self._session.run(f"{features.BOTTLENECK}:0", feed)

    def run(self, output: str, source: str, value: Any) -> np.ndarray:
        """Return the value of the tensor `output` for a value of the tensor `source`, both by name."""
        return self._session.run(f"{output}:0", {f"{source}:0": value})


def _feed(image_bytes: list[bytes], views: np.ndarray) -> dict[str, Any]:
    return {f"{features.IMAGE_BYTES}:0": image_bytes, f"{features.VIEWS}:0": views}
