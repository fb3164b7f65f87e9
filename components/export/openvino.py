"""OpenVINO: a model in float32."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from components.backbones.openvino_network import MODEL, compile_network, openvino
from components.export.convert import Format


def write_openvino(graph: Any, metadata: Mapping[str, str], folder: Path) -> dict[str, Path]:
    """Write the model with its metadata as runtime information."""
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary, "graph.pb")
        file.write_bytes(graph.SerializeToString())
        model = openvino.Core().read_model(file)
    for name, value in metadata.items():
        model.set_rt_info(value, name)
    openvino.save_model(model, folder / MODEL, compress_to_fp16=False)
    return {"openvino": folder / MODEL}


def load_openvino(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function of an OpenVINO model."""
    network = compile_network(openvino.Core().read_model(path), "f32")
    return lambda images: network(images)[0]


FORMAT = Format("openvino", write_openvino, load_openvino)
