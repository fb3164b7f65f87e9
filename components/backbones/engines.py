"""Engines that compute the bottlenecks of a backbone: TensorFlow, or OpenVINO with numbers of 32, 16 or 8 bits."""

from __future__ import annotations

import queue
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from components.backbones.openvino_network import (
    STATIC_BATCH,
    compile_network,
    has_bfloat16,
    list_inputs,
    read_network,
    read_quantized,
)
from components.backbones.prepare import BackboneSession
from components.backbones.views import WHOLE
from components.features import OPENVINO, OPENVINO_BF16, OPENVINO_INT8, TENSORFLOW

# Images, or views of images, whose pixels are in memory per batch.
EXTRACTION_BATCH_SIZE = 32
# Batches at the same time: during the convolutions of one, the others are decoded.
BATCHES_IN_FLIGHT = 3


class OpenvinoEngine:
    """A backbone with decoding in TensorFlow and the network in OpenVINO; safe to call from several threads."""

    def __init__(self, folder: Path, model: Any, precision: str):
        self._session = BackboneSession(folder)
        self._inputs = list_inputs(folder)
        compiled = compile_network(model, precision)
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


def list_engines() -> list[str]:
    """Return the engines that suit this machine, the fastest first.

    A graphics processor runs TensorFlow only. Bfloat16 is fast only on a processor that computes in it.
    """
    if tf.config.list_physical_devices("GPU"):
        return [TENSORFLOW]
    return [*([OPENVINO_BF16] if has_bfloat16() else []), OPENVINO, TENSORFLOW]


def load_engine(name: str, folder: Path) -> Engine:
    """Return the engine of a name with the backbone in a folder; raises UnsupportedNetwork.

    For OPENVINO_INT8, quantize_network must have run.
    """
    if name == TENSORFLOW:
        return BackboneSession(folder)
    model = read_quantized(folder) if name == OPENVINO_INT8 else read_network(folder)
    return OpenvinoEngine(folder, model, "bf16" if name == OPENVINO_BF16 else "f32")
