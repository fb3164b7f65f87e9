"""The network of a backbone as a model of OpenVINO, in float32 or quantized to 8-bit integers."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import tensorflow as tf

from components import features
from components.backbones.prepare import BackboneSession, import_graph, pixel_tensors
from components.errors import DamagedFile, UserError
from components.features import TENSORFLOW
from components.storage.ownership import replacing_folder
from components.storage.places import local_copy

# OpenVINO 2026.4 reports each import over the network, from a thread whose imports can block these for ever. Without
# this module it reports nothing.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
import openvino  # noqa: E402

v1 = tf.compat.v1

# Images per call of OpenVINO. Its shape is fixed: compiled for any batch size the network is about half as fast.
STATIC_BATCH = 8

# Of the quantized network, in the folder beside that of the backbone.
MODEL, WEIGHTS = "model.xml", "model.bin"


class UnsupportedNetwork(UserError):
    """A backbone that an engine cannot run."""


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


def list_inputs(folder: Path) -> list[str]:
    """Return the names of the inputs of the network in a folder for OpenVINO, in the order of decoded pixels."""
    return [f"{name}:0" for name in pixel_tensors(import_graph(folder))]


def read_network(folder: Path) -> Any:
    """Return the network of the backbone in a folder as OpenVINO's model; raises UnsupportedNetwork."""
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary, "pixels_to_bottleneck.pb")
        file.write_bytes(cut_graph(folder).SerializeToString())
        try:
            model = openvino.Core().read_model(file)
            model.reshape({port: [STATIC_BATCH, *port.partial_shape[1:]] for port in model.inputs})
        except Exception as error:  # its front end has an exception for each kind of fault, without a common base
            lines = [line.strip("- ") for line in str(error).splitlines() if line.strip()] or ["no reason given"]
            reason = next((line for line in lines if line.startswith("No conversion rule")), lines[-1])
            raise UnsupportedNetwork(
                f"OpenVINO cannot run this backbone ({reason}): set extract.engine to {TENSORFLOW}."
            ) from error
    return model


def compile_network(model: Any, precision: str) -> Any:
    """Return OpenVINO's model compiled for all cores, with f32 or bf16 as precision."""
    settings = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": precision}
    # In a separate thread: the plug-in gives the thread a large signal stack for AMX. If models end in another order
    # than they began, it restores a stack that no longer exists, and the next signal kills the process.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(openvino.Core().compile_model, model, "CPU", settings).result()


def has_bfloat16() -> bool:
    """Return whether the processor computes in bfloat16."""
    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def quantized_folder(folder: Path) -> Path:
    """Return the folder of the quantized network of the backbone in a folder."""
    return folder.with_name(f"{folder.name}-int8")


def quantize_network(folder: Path, encoded: Sequence[bytes]) -> None:
    """Write the network of the backbone in a folder in 8-bit integers, with the ranges of values on encoded images.

    Raises UnsupportedNetwork, and UserError where NNCF is not installed.
    """
    os.environ.setdefault("NNCF_CI", "1")  # else NNCF 3.4 reports its use over the network
    try:
        import nncf
    except ModuleNotFoundError as error:
        raise UserError(
            "The engine 'openvino_int8' needs nncf, which is not installed: pip install 'topgraft[int8]', or set "
            "extract.engine to auto."
        ) from error
    model, inputs, session = read_network(folder), list_inputs(folder), BackboneSession(folder)
    encoded = [*encoded, *(list(encoded) * STATIC_BATCH)][: max(len(encoded), STATIC_BATCH)]  # at least one batch
    starts = range(0, len(encoded) - STATIC_BATCH + 1, STATIC_BATCH)
    batches = [session.decode(encoded[start : start + STATIC_BATCH]) for start in starts]
    data = nncf.Dataset(batches, lambda pixels: dict(zip(inputs, pixels, strict=True)))
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        quantized = nncf.quantize(
            model, data, preset=nncf.QuantizationPreset.PERFORMANCE, subset_size=len(batches), fast_bias_correction=True
        )
    with replacing_folder(quantized_folder(folder), MODEL) as partial:
        openvino.save_model(quantized, partial / MODEL, compress_to_fp16=False)


def read_quantized(folder: Path) -> Any:
    """Return the network that quantize_network wrote for the backbone in a folder; raises DamagedFile."""
    with local_copy(quantized_folder(folder)) as place:
        try:
            # With its weights in memory: the file may be a copy that ends here.
            return openvino.Core().read_model((place / MODEL).read_bytes(), (place / WEIGHTS).read_bytes())
        except (RuntimeError, FileNotFoundError) as error:
            raise DamagedFile(str(quantized_folder(folder) / MODEL)) from error
