"""Formats to which an export is converted: TFLite (float32, and weights in int8), ONNX and OpenVINO.

Each writes its models from a GraphDef of IMAGES float32[N, S, S, 3] in 0..255 to PROBABILITIES float32[N, C] and from
metadata, and returns their paths by name; and each loads a model as a function of such arrays.
"""

from __future__ import annotations

import os
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from components.features import PROBABILITIES

IMAGES = "images"
LABELS_FILE = "labels.txt"
# Of ONNX: its Runtime reads it from version 1.12 on.
OPSET = 17

Classify = Callable[[np.ndarray], np.ndarray]


class Format(NamedTuple):
    """The functions of a format, and the packages of its extra."""

    write: Callable[[Any, Mapping[str, str], Path], dict[str, Path]]
    load: Callable[[Path], Classify]
    packages: tuple[str, ...] = ()


def write_tflite(graph: Any, metadata: Mapping[str, str], folder: Path) -> dict[str, Path]:
    """Write two models with LABELS_FILE, which is in the folder, as an associated file, a zip archive after each.

    https://www.tensorflow.org/lite/models/convert/metadata
    """
    (images,) = (node for node in graph.node if node.name == IMAGES)

    def classify(images: tf.Tensor) -> dict[str, tf.Tensor]:
        (answers,) = tf.import_graph_def(graph, {f"{IMAGES}:0": images}, [f"{PROBABILITIES}:0"])
        return {PROBABILITIES: answers}

    spec = tf.TensorSpec(tf.TensorShape(images.attr["shape"].shape), tf.float32, IMAGES)
    function = tf.function(classify, input_signature=[spec]).get_concrete_function()
    paths = {name: folder / f"model_{name}.tflite" for name in ("float", "int8")}
    for name, path in paths.items():
        converter = tf.lite.TFLiteConverter.from_concrete_functions([function], tf.Module())
        converter.optimizations = [tf.lite.Optimize.DEFAULT] if name == "int8" else []  # dynamic range
        path.write_bytes(converter.convert())
        with zipfile.ZipFile(path, "a") as archive:
            archive.write(folder / LABELS_FILE, LABELS_FILE)
    return paths


def load_tflite(path: Path) -> Classify:
    """Load a TFLite model, which computes image by image."""
    interpreter = tf.lite.Interpreter(str(path), num_threads=os.cpu_count())
    interpreter.allocate_tensors()
    (source,), (output,) = interpreter.get_input_details(), interpreter.get_output_details()

    def classify(image: np.ndarray) -> np.ndarray:
        interpreter.set_tensor(source["index"], image[None])
        interpreter.invoke()
        probabilities: np.ndarray = interpreter.get_tensor(output["index"])[0]
        return probabilities

    return lambda images: np.stack([classify(image) for image in images])


def write_onnx(graph: Any, metadata: Mapping[str, str], folder: Path) -> dict[str, Path]:
    """Write a model with its metadata."""
    from onnx.helper import set_model_props
    from tf2onnx.convert import from_graph_def

    model, _ = from_graph_def(graph, None, [f"{IMAGES}:0"], [f"{PROBABILITIES}:0"], opset=OPSET)
    set_model_props(model, metadata)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return {"onnx": folder / "model.onnx"}


def load_onnx(path: Path) -> Classify:
    """Load an ONNX model in ONNX Runtime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {f"{IMAGES}:0": images})[0]


def write_openvino(graph: Any, metadata: Mapping[str, str], folder: Path) -> dict[str, Path]:
    """Write a model with its metadata as runtime information."""
    from components.backbones.openvino_network import MODEL, openvino

    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary, "graph.pb")
        file.write_bytes(graph.SerializeToString())
        model = openvino.Core().read_model(file)
    for name, value in metadata.items():
        model.set_rt_info(value, name)
    openvino.save_model(model, folder / MODEL, compress_to_fp16=False)
    return {"openvino": folder / MODEL}


def load_openvino(path: Path) -> Classify:
    """Load an OpenVINO model."""
    from components.backbones.openvino_network import compile_network, openvino

    network = compile_network(openvino.Core().read_model(path), "f32")
    return lambda images: network(images)[0]


FORMATS = {
    "tflite": Format(write_tflite, load_tflite),
    "onnx": Format(write_onnx, load_onnx, ("tf2onnx", "onnxruntime")),
    "openvino": Format(write_openvino, load_openvino),
}
