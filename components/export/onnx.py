"""ONNX: a model in float32, converted by tf2onnx and compared in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import tf2onnx
from onnx.helper import set_model_props

from components.export.convert import IMAGES, Format
from components.features import PROBABILITIES

# ONNX Runtime reads it from version 1.12 on.
OPSET = 17


def write_onnx(graph: Any, metadata: Mapping[str, str], folder: Path) -> dict[str, Path]:
    """Write the model with its metadata."""
    model, _ = tf2onnx.convert.from_graph_def(
        graph, input_names=[f"{IMAGES}:0"], output_names=[f"{PROBABILITIES}:0"], opset=OPSET
    )
    set_model_props(model, metadata)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return {"onnx": folder / "model.onnx"}


def load_onnx(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function of an ONNX model."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {session.get_inputs()[0].name: images})[0]


FORMAT = Format("onnx", write_onnx, load_onnx)
