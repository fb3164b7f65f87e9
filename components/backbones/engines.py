"""Engines that compute the bottlenecks of a backbone: TensorFlow or OpenVINO, in float32 or bfloat16."""

from __future__ import annotations

import importlib.util
import queue
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from components import features
from components.backbones.prepare import BackboneSession, import_graph
from components.backbones.views import WHOLE
from components.errors import UserError
from components.features import AUTO, OPENVINO, OPENVINO_BF16, TENSORFLOW, TENSORFLOW_BF16

v1 = tf.compat.v1

# Images, or views of images, whose pixels are in memory per batch.
EXTRACTION_BATCH_SIZE = 32
# Batches at the same time: during the convolutions of one, the others are decoded.
BATCHES_IN_FLIGHT = 3


class OpenvinoEngine:
    """A backbone with decoding in TensorFlow and the network in OpenVINO; safe to call from several threads."""

    def __init__(self, folder: Path, precision: str):
        import openvino

        self._session = BackboneSession(folder)
        core = openvino.Core()
        with tempfile.TemporaryDirectory() as temporary:
            file = Path(temporary, "pixels_to_bottleneck.pb")
            file.write_bytes(cut_graph(folder).SerializeToString())
            model = core.read_model(file)
        # With LATENCY two cores work on one batch; THROUGHPUT was half as fast on batches of 32.
        settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision}
        # In a separate thread: the plug-in gives the thread a large signal stack for AMX. If models end in another
        # order than they began, it restores a stack that no longer exists, and the next signal kills the process.
        with ThreadPoolExecutor(1) as thread:
            compiled = thread.submit(core.compile_model, model, "CPU", settings).result()
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(BATCHES_IN_FLIGHT):
            self._requests.put(compiled.create_infer_request())

    def compute_bottlenecks(self, image_bytes: list[bytes], views: np.ndarray = WHOLE) -> np.ndarray:
        """Map N encoded images and V views float32[V, 5] to bottlenecks float32[N * V, dim], image by image."""
        pixels = self._session.decode(image_bytes, views)
        request = self._requests.get()
        try:
            return np.array(request.infer([pixels])[0], np.float32)
        finally:
            self._requests.put(request)


Engine = BackboneSession | OpenvinoEngine


def cut_graph(folder: Path) -> Any:
    """Return the part of the graph in a folder from pixels float32[N, S, S, 3] to bottleneck, as a GraphDef."""
    whole = import_graph(folder)
    shape = whole.get_tensor_by_name(f"{features.PIXELS}:0").shape
    with tf.Graph().as_default() as graph:
        pixels = v1.placeholder(tf.float32, [None, *shape[1:]], features.PIXELS)
        tf.import_graph_def(whole.as_graph_def(), {f"{features.PIXELS}:0": pixels}, name="cut")
    return v1.graph_util.extract_sub_graph(graph.as_graph_def(), [f"cut/{features.BOTTLENECK}"])


def list_engines(folder: Path) -> list[str]:
    """Return the names of the installed engines that can run the backbone in a folder."""
    # Concatenated backbones have no single tensor of pixels at which to cut.
    has_pixels = features.PIXELS in {operation.name for operation in import_graph(folder).get_operations()}
    openvino = importlib.util.find_spec("openvino") and has_pixels
    return [TENSORFLOW, TENSORFLOW_BF16, *([OPENVINO, OPENVINO_BF16] if openvino else [])]


def load_engine(name: str, folder: Path) -> Engine:
    """Return the engine of a name with the backbone in a folder; raises UserError if it is not available."""
    if name in (OPENVINO, OPENVINO_BF16):
        if name not in list_engines(folder):
            raise UserError(
                f"The engine '{name}' is not available: install topgraft[openvino] and use a single backbone, or set "
                f"extract.engine to {AUTO}."
            )
        return OpenvinoEngine(folder, "bf16" if name == OPENVINO_BF16 else "f32")
    return BackboneSession(folder, bfloat16=name == TENSORFLOW_BF16)
