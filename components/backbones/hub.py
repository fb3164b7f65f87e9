"""TF-Hub modules from a URL, folder or archive as frozen networks."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf
import tensorflow_hub as hub

from components.backbones.network import Network, freeze
from components.backbones.spec import Spec
from components.errors import UserError
from components.storage.archives import unpack
from components.storage.downloads import cache_folder
from components.storage.places import as_path, plain_folder

SIGNATURES = ("image_feature_vector", "default", "serving_default")
OUTPUTS = ("default", "feature_vector", "outputs", "output_0")


def build_module(spec: Spec) -> Network:
    """Return a feature-vector module as a network; the default size is that of its signature.

    Raises UserError for a module without a usable signature, of any size without spec.size, or that cannot be called.
    """
    module = load_module(spec)
    function, own_size = choose_function(module, spec)
    size = spec.size or own_size
    if size is None:
        raise UserError(f"The module '{spec.hub}' takes images of any size: set backbone.size, such as 224.")
    try:
        graph_def, source, outputs = freeze(function, size)
    except (ValueError, TypeError, tf.errors.OpError) as error:
        raise UserError(
            f"The module '{spec.hub}' cannot be called with images of {size}x{size} ({str(error).splitlines()[0]}): "
            f"set backbone.size and backbone.signature as its page documents them."
        ) from error
    return Network(graph_def, source, outputs[0], size, *spec.shift_and_divisor)


def load_module(spec: Spec) -> Any:
    """Return the SavedModel at a URL (cached in TFHUB_CACHE_DIR), in a folder or in a tar archive.

    Raises UserError if it cannot be loaded.
    """
    assert spec.hub
    handle = spec.hub
    if as_path(handle).is_file():
        digest = hashlib.sha256(as_path(handle).read_bytes()).hexdigest()
        handle = str(unpack(as_path(handle), cache_folder() / "modules" / digest[:16]))
    try:
        folder = as_path(hub.resolve(handle))
        if not (folder / "saved_model.pb").exists():
            inside = [file.parent for file in folder.rglob("saved_model.pb")]
            folder = inside[0] if len(inside) == 1 else folder
        with plain_folder(folder) as plain:
            return tf.saved_model.load(str(plain))
    except (OSError, ValueError, RuntimeError, tf.errors.OpError) as error:
        raise UserError(
            f"Cannot load the module '{spec.hub}' ({str(error).splitlines()[0]}): give a TF2 feature vector's URL, "
            f"or download it elsewhere and give the path of its folder or archive."
        ) from error


def choose_function(module: Any, spec: Spec) -> tuple[Callable, int | None]:
    """Return the function from pixels float32[N, S, S, 3] to features, and the input size S, None for any size.

    Raises UserError without a usable signature.
    """
    signatures = dict(getattr(module, "signatures", {}))
    if spec.signature or not callable(module):
        name = spec.signature or next((name for name in SIGNATURES if name in signatures), None)
        if name not in signatures:
            raise UserError(
                f"The module '{spec.hub}' has the signatures {sorted(signatures) or 'none'}: "
                f"expected {name or 'one that takes images'}; set backbone.signature."
            )
        signature = signatures[name]
        inputs = signature.structured_input_signature[1]
        images = [(key, value) for key, value in inputs.items() if value.shape.rank == 4]
        if len(inputs) != 1 or not images:
            raise UserError(
                f"The signature '{name}' of '{spec.hub}' takes {sorted(inputs)}: expected one batch of images."
            )
        ((key, image),) = images
        return lambda pixels: choose_output(signature(**{key: pixels}), spec), image.shape[1]
    return lambda pixels: choose_output(module(pixels), spec), _callable_size(module)


def choose_output(outputs: Any, spec: Spec) -> tf.Tensor:
    """Return the features in the outputs of a module, which are a tensor or tensors by name.

    Raises UserError if no output has a known name.
    """
    if not isinstance(outputs, Mapping):
        return outputs
    name = next((name for name in OUTPUTS if name in outputs), None)
    if name is None and len(outputs) == 1:
        (name,) = outputs
    if name is None:
        raise UserError(
            f"The module '{spec.hub}' gives {sorted(outputs)}: expected one output, or one named "
            f"{' or '.join(OUTPUTS)}; set backbone.signature to one whose only output is the features."
        )
    return outputs[name]


def _callable_size(module: Any) -> int | None:
    for function in getattr(module.__call__, "concrete_functions", []):
        for argument in function.structured_input_signature[0]:
            if getattr(argument, "shape", None) is not None and argument.shape.rank == 4 and argument.shape[1]:
                return int(argument.shape[1])
    return None
