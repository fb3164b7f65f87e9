"""Engines that compute the bottlenecks of a backbone: TensorFlow in float32, or OpenVINO in float32 or bfloat16."""

from __future__ import annotations

import queue
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import tensorflow as tf

from components import features
from components.backbones.prepare import BackboneSession, import_graph, pixel_tensors
from components.backbones.views import WHOLE
from components.errors import UserError
from components.features import OPENVINO, OPENVINO_BF16, TENSORFLOW

v1 = tf.compat.v1

# Images, or views of images, whose pixels are in memory per batch.
EXTRACTION_BATCH_SIZE = 32
# Batches at the same time: during the convolutions of one, the others are decoded.
BATCHES_IN_FLIGHT = 3
# Images per call of OpenVINO. Its shape is fixed: compiled for any batch size the network is about half as fast.
STATIC_BATCH = 8


class UnsupportedNetwork(UserError):
    """A backbone that an engine cannot run."""


class OpenvinoEngine:
    """A backbone with decoding in TensorFlow and the network in OpenVINO; safe to call from several threads."""

    def __init__(self, folder: Path, precision: str):
        self._session = BackboneSession(folder)
        core = openvino.Core()
        with tempfile.TemporaryDirectory() as temporary:
            file = Path(temporary, "pixels_to_bottleneck.pb")
            file.write_bytes(cut_graph(folder).SerializeToString())
            try:
                model = core.read_model(file)
                model.reshape({port: [STATIC_BATCH, *port.partial_shape[1:]] for port in model.inputs})
            except Exception as error:  # its front end has an exception for each kind of fault, without a common base
                lines = [line.strip("- ") for line in str(error).splitlines() if line.strip()] or ["no reason given"]
                reason = next((line for line in lines if line.startswith("No conversion rule")), lines[-1])
                raise UnsupportedNetwork(
                    f"OpenVINO cannot run this backbone ({reason}): set extract.engine to {TENSORFLOW}."
                ) from error
        # Names of inputs in the order of the tensors of pixels.
        names = {name for port in model.inputs for name in port.names}
        self._inputs = [
            name for name in (f"{tensor}:0" for tensor in pixel_tensors(import_graph(folder))) if name in names
        ]
        settings = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": precision}
        # In a separate thread: the plug-in gives the thread a large signal stack for AMX. If models end in another
        # order than they began, it restores a stack that no longer exists, and the next signal kills the process.
        with ThreadPoolExecutor(1) as thread:
            compiled = thread.submit(core.compile_model, model, "CPU", settings).result()
        streams = compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(streams):
            self._requests.put(compiled.create_infer_request())
        # The first call, alone: of two first calls at once each waits for the other, for ever (OpenVINO 2026.4.1).
        self._infer([np.zeros(model.input(name).shape, np.float32) for name in self._inputs])
        self._pool = ThreadPoolExecutor(streams)

    def compute_bottlenecks(self, image_bytes: list[bytes], views: np.ndarray = WHOLE) -> np.ndarray:
        """Map N encoded images and V views float32[V, 5] to bottlenecks float32[N * V, dim], image by image."""
        return self.compute_from_pixels(self._session.decode(image_bytes, views))

    def compute_from_pixels(self, pixels: Sequence[np.ndarray]) -> np.ndarray:
        """Map the pixels float32[N, S, S, 3] for each input to bottlenecks float32[N, dim]."""
        starts = range(0, len(pixels[0]), STATIC_BATCH)
        parts = self._pool.map(
            lambda start: self._infer([part[start : start + STATIC_BATCH] for part in pixels]), starts
        )
        return np.concatenate([*parts])

    def _infer(self, pixels: Sequence[np.ndarray]) -> np.ndarray:
        count = len(pixels[0])
        if count < STATIC_BATCH:
            pixels = [np.resize(part, (STATIC_BATCH, *part.shape[1:])) for part in pixels]
        request = self._requests.get()
        try:
            found = request.infer(dict(zip(self._inputs, pixels, strict=True)), share_inputs=True)
            return np.array(found[0][:count], np.float32)
        finally:
            self._requests.put(request)


Engine = BackboneSession | OpenvinoEngine


def cut_graph(folder: Path) -> Any:
    """Return the part of the graph in a folder from pixels float32[N, S, S, 3] to bottleneck, as a GraphDef."""
    whole = import_graph(folder)
    with tf.Graph().as_default() as graph:
        inputs = {}
        for name in pixel_tensors(whole):
            shape = whole.get_tensor_by_name(f"{name}:0").shape
            inputs[f"{name}:0"] = v1.placeholder(tf.float32, [None, *shape[1:]], name)
        tf.import_graph_def(whole.as_graph_def(), inputs, name="cut")
    return v1.graph_util.extract_sub_graph(graph.as_graph_def(), [f"cut/{features.BOTTLENECK}"])


def list_engines() -> list[str]:
    """Return the engines that suit this machine, the fastest first.

    A graphics processor runs TensorFlow only. Bfloat16 is fast only on a processor that computes in it.
    """
    if tf.config.list_physical_devices("GPU"):
        return [TENSORFLOW]
    native = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return [*([OPENVINO_BF16] if native else []), OPENVINO, TENSORFLOW]


def load_engine(name: str, folder: Path) -> Engine:
    """Return the engine of a name with the backbone in a folder; raises UnsupportedNetwork."""
    if name == TENSORFLOW:
        return BackboneSession(folder)
    return OpenvinoEngine(folder, "bf16" if name == OPENVINO_BF16 else "f32")
