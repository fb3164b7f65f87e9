"""Engines that run a canonical backbone: TensorFlow or OpenVINO, in float32 or bfloat16."""

from __future__ import annotations

import importlib.util
import queue
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from components import features
from components.backbones.prepare import BackboneSession, load_graph
from components.backbones.views import WHOLE
from components.errors import UserError
from components.features import AUTO, OPENVINO, OPENVINO_BF16, TENSORFLOW, TENSORFLOW_BF16

v1 = tf.compat.v1

# Pixels of this many images (or views of images) are in memory a batch.
BATCH_SIZE = 32
# Batches that are worked on side by side: while one is in the network's convolutions, the others are being decoded.
BATCHES_IN_FLIGHT = 3


class Engine(Protocol):
    """Computes bottlenecks; safe to call from several threads."""

    def compute_bottlenecks(self, image_bytes: list[bytes], views: np.ndarray = WHOLE) -> np.ndarray:
        """Map N encoded images to float32[N * V, dim], those of an image's V views together."""


class OpenvinoEngine:
    """Decodes in TensorFlow, computes in OpenVINO."""

    def __init__(self, folder: Path, precision: str):
        import openvino

        self._session = BackboneSession(folder)
        core = openvino.Core()
        with tempfile.TemporaryDirectory() as place:
            file = Path(place, "pixels_to_bottleneck.pb")
            file.write_bytes(cut_graph(folder).SerializeToString())
            model = core.read_model(file)
        # With this hint two cores work on one batch; THROUGHPUT was half as fast on batches of 32.
        settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision}
        # In a thread of its own: the plug-in gives the thread a stack for signals (AMX needs a large one), and where
        # models end in another order than they began it puts one back that is gone: the next signal kills the process.
        with ThreadPoolExecutor(1) as thread:
            compiled = thread.submit(core.compile_model, model, "CPU", settings).result()
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(BATCHES_IN_FLIGHT):
            self._requests.put(compiled.create_infer_request())

    def compute_bottlenecks(self, image_bytes: list[bytes], views: np.ndarray = WHOLE) -> np.ndarray:
        """Map N encoded images to float32[N * V, dim], those of an image's V views together."""
        return self.compute_from_pixels(self._session.decode(image_bytes, views))

    def compute_from_pixels(self, pixels: np.ndarray) -> np.ndarray:
        """Map decoded images float32[N, S, S, 3] to float32[N, dim]."""
        request = self._requests.get()
        try:
            return np.array(request.infer([pixels])[0], np.float32)
        finally:
            self._requests.put(request)


def cut_graph(folder: Path) -> Any:
    """Return the graph from pixels to bottleneck."""
    whole = tf.Graph()
    with whole.as_default():
        tf.import_graph_def(load_graph(folder), name="")
    shape = whole.get_tensor_by_name(f"{features.PIXELS}:0").shape
    with tf.Graph().as_default() as graph:
        pixels = v1.placeholder(tf.float32, [None, *shape[1:]], features.PIXELS)
        tf.import_graph_def(whole.as_graph_def(), {f"{features.PIXELS}:0": pixels}, name="cut")
    return v1.graph_util.extract_sub_graph(graph.as_graph_def(), [f"cut/{features.BOTTLENECK}"])


def list_engines(folder: Path) -> list[str]:
    """Return the engines that are installed and can run the backbone in a folder."""
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(load_graph(folder), name="")
    has_pixels = features.PIXELS in {operation.name for operation in graph.get_operations()}
    # Backbones side by side have no single batch of pixels at which to cut.
    openvino = importlib.util.find_spec("openvino") and has_pixels
    return [TENSORFLOW, TENSORFLOW_BF16, *([OPENVINO, OPENVINO_BF16] if openvino else [])]


def load_engine(name: str, folder: Path) -> Engine:
    """Load the backbone in a folder into an engine; raises UserError for one that is not to be had."""
    if name in (OPENVINO, OPENVINO_BF16):
        if name not in list_engines(folder):
            raise UserError(
                f"The engine '{name}' is not to be had: install topgraft[openvino] and use a single backbone, or set "
                f"extract.engine to {AUTO}."
            )
        return OpenvinoEngine(folder, "bf16" if name == OPENVINO_BF16 else "f32")
    return BackboneSession(folder, bfloat16=name == TENSORFLOW_BF16)
