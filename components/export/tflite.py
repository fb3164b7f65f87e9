"""TFLite: a model in float32, and one with weights in int8."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from components.export.convert import IMAGES, LABELS_FILE, Format
from components.features import PROBABILITIES

FLOAT, INT8 = "float", "int8"


def write_tflite(graph: Any, metadata: Mapping[str, str], folder: Path) -> dict[str, Path]:
    """Write both models; each has the labels as an associated file, a zip archive after the flatbuffer.

    https://www.tensorflow.org/lite/models/convert/metadata
    """
    (images,) = (node for node in graph.node if node.name == IMAGES)

    def classify(images: tf.Tensor) -> dict[str, tf.Tensor]:
        (answers,) = tf.import_graph_def(graph, {f"{IMAGES}:0": images}, [f"{PROBABILITIES}:0"])
        return {PROBABILITIES: answers}

    spec = tf.TensorSpec(tf.TensorShape(images.attr["shape"].shape), tf.float32, IMAGES)
    function = tf.function(classify, input_signature=[spec]).get_concrete_function()
    paths = {name: folder / f"model_{name}.tflite" for name in (FLOAT, INT8)}
    for name, path in paths.items():
        converter = tf.lite.TFLiteConverter.from_concrete_functions([function], tf.Module())
        converter.optimizations = [tf.lite.Optimize.DEFAULT] if name == INT8 else []  # dynamic range
        path.write_bytes(converter.convert())
        with zipfile.ZipFile(path, "a") as archive:
            archive.write(folder / LABELS_FILE, LABELS_FILE)
    return paths


def load_tflite(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function of a TFLite model, which computes image by image."""
    interpreter = tf.lite.Interpreter(str(path), num_threads=os.cpu_count())
    interpreter.allocate_tensors()
    (source,), (output,) = interpreter.get_input_details(), interpreter.get_output_details()

    def classify(images: np.ndarray) -> np.ndarray:
        answers = []
        for image in images:
            interpreter.set_tensor(source["index"], image[None])
            interpreter.invoke()
            answers.append(interpreter.get_tensor(output["index"])[0])
        return np.stack(answers)

    return classify


FORMAT = Format("tflite", write_tflite, load_tflite)
