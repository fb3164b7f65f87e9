"""tf.keras.applications as frozen networks, each with its own preprocessing."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import tensorflow as tf

from components.backbones.network import Network, freeze, imagenet_class_names
from components.backbones.spec import KERAS, Spec, unknown
from components.errors import UserError
from components.storage.places import as_path, local_copy


def build_application(spec: Spec) -> Network:
    """Return a Keras application up to its last maps, to spec.layer, or with its top where the layer lies there."""
    assert spec.keras
    size = spec.size or KERAS[spec.keras][0]
    # Layers are numbered and random weights drawn across the process: the graph's hash would not be the same twice.
    tf.keras.backend.clear_session()
    tf.keras.utils.set_random_seed(0)
    model = load_model(spec, size)
    output = model.output
    if spec.layer:
        names = {layer.name: layer for layer in model.layers}
        if spec.layer not in names:
            raise UserError(
                unknown("layer", spec.layer, [f"{name} {layer.output_shape}" for name, layer in names.items()])
            )
        output = names[spec.layer].output
    features = tf.keras.Model(model.inputs, output)
    preprocess = application_module(spec.keras).preprocess_input
    graph_def, source, (bottleneck,) = freeze(lambda pixels: features(preprocess(pixels), training=False), size)
    return Network(graph_def, source, bottleneck, size, 0.0, 1.0)


def build_classifier(name: str) -> Network:
    """Return a Keras application with its ImageNet top, bottleneck and probabilities."""
    tf.keras.backend.clear_session()
    size = KERAS[name][0]
    model = _construct(Spec(keras=name, weights="imagenet"), size, top=True)
    both = tf.keras.Model(model.inputs, [model.layers[-2].output, model.output])
    preprocess = application_module(name).preprocess_input
    graph_def, source, (bottleneck, probabilities) = freeze(lambda p: both(preprocess(p), training=False), size)
    return Network(graph_def, source, bottleneck, size, 0.0, 1.0, probabilities, labels=imagenet_class_names(1000))


def application_module(name: str) -> ModuleType:
    """Return the module of tf.keras.applications that holds an application and its preprocess_input."""
    if name.startswith("MobileNetV3"):  # the one module that does not list its classes
        return tf.keras.applications.mobilenet_v3
    for module in vars(tf.keras.applications).values():
        if isinstance(module, ModuleType) and hasattr(module, name) and hasattr(module, "preprocess_input"):
            return module
    raise UserError(unknown("Keras application", name, list(KERAS)))


def load_model(spec: Spec, size: int) -> Any:
    """Build the application without its top, or with it where the layer or the weights file asks for that."""
    problems = []
    for top in (False, True):
        if top and spec.weights in (None, "imagenet") and spec.size not in (None, KERAS[spec.keras or ""][0]):
            break  # the published weights of the top fit the published size alone
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
