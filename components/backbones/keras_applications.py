"""tf.keras.applications as frozen networks with their own preprocessing."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import tensorflow as tf

from components.backbones.network import Network, freeze, imagenet_class_names
from components.backbones.spec import KERAS, Spec, unknown
from components.errors import UserError
from components.storage.places import as_path, local_copy


def build_application(spec: Spec, own_classes: bool) -> Network:
    """Return a Keras application up to spec.layer or its last maps, or with own_classes up to its ImageNet classes.

    Raises UserError for an unknown layer, for weights that do not fit, and if the network cannot be built.
    """
    assert spec.keras
    size = spec.size or KERAS[spec.keras][0]
    # Keras numbers layers and draws random weights across the process, but the graph must have the same hash each time.
    tf.keras.backend.clear_session()
    tf.keras.utils.set_random_seed(0)
    model = _construct(spec, size, top=True) if own_classes else load_application(spec, size)
    outputs = [model.layers[-2].output, model.output] if own_classes else [model.output]
    if spec.layer and not own_classes:
        layers = {layer.name: layer for layer in model.layers}
        if spec.layer not in layers:
            shapes = [f"{name} {layer.output_shape}" for name, layer in layers.items()]
            raise UserError(unknown("layer", spec.layer, shapes))
        outputs = [layers[spec.layer].output]
    network = tf.keras.Model(model.inputs, outputs)
    preprocess = application_module(spec.keras).preprocess_input
    graph_def, source, tensors = freeze(lambda pixels: network(preprocess(pixels), training=False), size)
    probabilities, labels = (tensors[1], imagenet_class_names(1000)) if own_classes else (None, ())
    return Network(graph_def, source, tensors[0], size, 0.0, 1.0, probabilities, labels=labels)


def application_module(name: str) -> ModuleType:
    """Return the module of tf.keras.applications with an application and its preprocess_input."""
    if name.startswith("MobileNetV3"):  # its module does not list its classes
        return tf.keras.applications.mobilenet_v3
    for module in vars(tf.keras.applications).values():
        if isinstance(module, ModuleType) and hasattr(module, name) and hasattr(module, "preprocess_input"):
            return module
    raise UserError(unknown("Keras application", name, list(KERAS)))


def load_application(spec: Spec, size: int) -> Any:
    """Return the Keras model without its top, or with it if the layer or the weights file needs the top.

    Raises UserError for weights that do not fit, and if the network cannot be built.
    """
    problems = []
    for top in (False, True):
        if top and spec.weights in (None, "imagenet") and spec.size not in (None, KERAS[spec.keras or ""][0]):
            break  # the published weights of the top fit only the published size
        model = _construct(spec, size, top)
        if spec.layer and not top and spec.layer not in {layer.name for layer in model.layers}:
            continue
        if spec.weights in (None, "imagenet", "none"):
            return model
        try:
            with local_copy(as_path(spec.weights)) as file:
                model.load_weights(str(file))
            return model
        except (ValueError, OSError, KeyError, ImportError) as error:
            problems.append(str(error).splitlines()[0])
    if problems:
        raise UserError(
            f"The weights '{spec.weights}' do not fit {spec.keras} ({problems[0]}): "
            f"expected a file that {spec.keras}.save_weights wrote."
        )
    return model


def _construct(spec: Spec, size: int, top: bool) -> Any:
    assert spec.keras
    weights = "imagenet" if spec.weights in (None, "imagenet") else None
    build = getattr(tf.keras.applications, spec.keras)
    try:
        return build(include_top=top, weights=weights, input_shape=(size, size, 3))
    except ValueError as error:
        raise UserError(f"{spec.keras} cannot be built at {size}x{size} ({str(error).splitlines()[0]}).") from error
    except Exception as error:  # Keras raises a bare Exception when its download fails
        raise UserError(
            f"Cannot fetch the weights of {spec.keras} ({str(error).splitlines()[0]}): connect to the network, "
            f"put the file into ~/.keras/models by hand, or set backbone.weights to its path."
        ) from error
