"""The list of named backbones, and the layers and operations of one of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from components.backbones.hf_files import locate
from components.backbones.spec import EMBEDDED, FROZEN, KERAS, SOURCES, Spec, parse_backbone
from components.storage.downloads import cache_folder
from components.terminal.progress import Progress
from components.terminal.text import printable

LICENCE = "Apache-2.0"
# The applications whose ImageNet weights have another licence (keras.io/api/applications).
KERAS_LICENCES = {
    "VGG": "CC BY 4.0",
    "ResNet50": "MIT",
    "ResNet101": "MIT",
    "ResNet152": "MIT",
    "DenseNet": "BSD-3-Clause",
    "ConvNeXt": "MIT",
}


class NamedBackbone(NamedTuple):
    """A named backbone: side of its input in pixels, width of its bottleneck, whether its weights are installed."""

    name: str
    source: str
    input: int
    dim: int
    parameters: float  # millions
    licence: str
    here: bool


def list_backbones() -> list[NamedBackbone]:
    """Return every named backbone; TF-Hub modules and files have a URL or path instead of a name."""
    downloads = cache_folder() / "downloads"
    return [
        *(
            NamedBackbone(name, "installed", lite.size, lite.dim, lite.parameters, LICENCE, True)
            for name, lite in EMBEDDED.items()
        ),
        *(
            NamedBackbone(
                name, "download", net.size, net.dim, net.parameters, LICENCE, (downloads / net.remote.file).exists()
            )
            for name, net in FROZEN.items()
        ),
        *(
            NamedBackbone(name, "Keras", size, dim, parameters, _keras_licence(name), _keras_here(name))
            for name, (size, dim, parameters) in KERAS.items()
        ),
    ]


def print_list(backbones: Sequence[NamedBackbone], console: Console) -> None:
    """Print a table with one row per backbone."""
    table = Table("name", "source", box=None, pad_edge=False)
    for column in ("input", "dim", "M parameters"):
        table.add_column(column, justify="right")
    table.add_column("licence")
    table.add_column("here")
    for name, source, size, dim, parameters, licence, here in backbones:
        numbers = (str(size), str(dim), f"{parameters:.1f}")
        table.add_row(name, source, *numbers, licence, "yes" if here else "no")
    console.print(table)
    console.print(f"Or name a source in the config: backbone: {{{' | '.join(SOURCES[1:])}: ...}}", highlight=False)


def licence_of(spec: Spec) -> str | None:
    """Return the licence of a backbone's published weights, None if it is unknown."""
    if spec.name:
        return LICENCE
    if spec.vit:
        return _read_licence(locate(spec.vit) / "README.md")
    return _keras_licence(spec.keras) if spec.keras and spec.weights in (None, "imagenet") else None


def _read_licence(card: Path) -> str | None:
    """Return the licence in the head of a model's card, None without one."""
    text = card.read_text(encoding="utf-8", errors="replace") if card.exists() else ""
    head = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    found = dict(re.findall(r"^(license|license_name): *([^#\n]+)", head[1], re.MULTILINE)) if head else {}
    return (found.get("license_name") or found.get("license", "")).strip(" \"'\r") or None


def _keras_licence(name: str) -> str:
    if name.startswith("ResNet") and name.endswith("V2"):
        return LICENCE
    return next((terms for start, terms in KERAS_LICENCES.items() if name.startswith(start)), LICENCE)


def _keras_here(name: str) -> bool:
    stems = (Path.home() / ".keras" / "models").glob("*")
    flat = name.lower()
    return any(stem.name.replace("_", "").replace("-", "").lower().startswith(flat + "weights") for stem in stems)


def print_backbone(
    name: str, console: Console, progress: Progress, pbtxt: Path | None, tensorboard: Path | None
) -> None:
    """Print a backbone's input, its layers with shapes, and operations counted by kind; write its graph if asked."""
    import tensorflow as tf

    from components.backbones.prepare import import_graph, prepare_cached

    with progress.stage("backbone"):
        backbone, folder = prepare_cached(parse_backbone(name), progress)
    graph = import_graph(folder)
    console.print(printable(f"{backbone.name}  id {backbone.id}"), highlight=False, markup=False)
    side = f"{backbone.size}x{backbone.size} pixels" if backbone.size else "several sizes"
    console.print(f"input {side}, bottleneck {backbone.dim} wide, {len(backbone.labels)} own classes", highlight=False)
    table = Table("layer", "shape", "operation", box=None, pad_edge=False)
    for layer, shape, kind in list_layers(graph):
        table.add_row(layer, shape, kind)
    console.print(table)
    kinds = Counter(operation.type for operation in graph.get_operations())
    console.print("operations: " + ", ".join(f"{count} {kind}" for kind, count in kinds.most_common()), highlight=False)
    if pbtxt:
        tf.io.write_graph(graph, str(pbtxt.parent), pbtxt.name)
        console.print(printable(f"graph as text: {pbtxt}"), highlight=False, markup=False)
    if tensorboard:
        with graph.as_default(), tf.compat.v1.summary.FileWriter(str(tensorboard), graph):
            console.print(printable(f"graph for TensorBoard: {tensorboard}"), highlight=False, markup=False)


def list_layers(graph: Any) -> list[tuple[str, str, str]]:
    """Return (name, shape, operation) of each tensor that backbone.layer can name: the network's maps and vectors."""
    rows = []
    for operation in graph.get_operations():
        if not re.match("network/(?!vit)", operation.name) or operation.type in ("Const", "Placeholder"):
            continue
        shape = operation.outputs[0].shape if operation.outputs else None
        if shape is not None and shape.rank in (2, 4) and shape[0] is None and shape[-1] is not None:
            rows.append((operation.name.removeprefix("network/"), str(shape), operation.type))
    return rows
