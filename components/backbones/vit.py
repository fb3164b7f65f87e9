"""Published vision transformers as frozen networks: pre-norm blocks over the tokens of patches, for all families."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import numpy as np
import tensorflow as tf

from components.backbones.hf_files import fetch_folder
from components.backbones.network import Network
from components.backbones.spec import BOTH, CLASS, MEAN, POOLED, Spec
from components.backbones.vit_folder import FAMILIES, NAMES, Weights, read_config, read_preprocessing
from components.errors import UserError
from components.storage.places import local_copy
from components.terminal.progress import Progress
from components.terminal.text import printable

ACTIVATE = {
    "gelu": tf.nn.gelu,
    "gelu_pytorch_tanh": lambda x: tf.nn.gelu(x, approximate=True),
    "quick_gelu": lambda x: x * tf.sigmoid(1.702 * x),
}


def build_vit(spec: Spec, progress: Progress) -> Network:
    """Return the network of a folder up to spec.layer, else up to the layer of its family.

    The tensors that it does not use are named on stderr. Raises UserError for a folder that is damaged or not known.
    """
    assert spec.vit
    folder, place = fetch_folder(spec.vit, progress)
    with local_copy(folder) as local, tf.Graph().as_default() as graph:
        config, weights = read_config(local, spec.vit), Weights(local, spec.vit)
        preprocessing = read_preprocessing(local, spec.vit, config["model_type"], spec.size)
        layer, layers = spec.layer or FAMILIES[config["model_type"]].layer, list_layers(config, weights)
        if layer not in layers:
            raise UserError(f"'{spec.vit}' has no layer '{layer}': expected one of {', '.join(layers)}.")
        if preprocessing["size"] < config["patch_size"]:
            raise UserError(f"backbone.size is {spec.size}: expected at least the patches of {config['patch_size']}.")
        pixels = tf.compat.v1.placeholder(tf.float32, [None, *[preprocessing["size"]] * 2, 3], "pixels")
        bottleneck, rest = add_vit(pixels, layer, config, weights), weights.describe_rest()
    if rest:
        print(printable(f"topgraft: '{spec.vit}' has tensors that are left out: {rest}."), file=sys.stderr)
    title = replace(spec, vit=place).title
    return Network(graph.as_graph_def(), pixels.name, bottleneck.name, **preprocessing, title=title)


def list_layers(config: dict[str, Any], weights: Weights) -> list[str]:
    """Return the layers of a network; not each folder has the weights of POOLED."""
    family, kind = FAMILIES[config["model_type"]], config["model_type"]
    has_pool = family.pool and any(name.removeprefix(family.prefix).startswith(family.pool) for name in weights.names)
    return [*([MEAN] if kind == "siglip" else [CLASS, MEAN, BOTH]), *([POOLED] if has_pool else [])]


def add_vit(pixels: tf.Tensor, layer: str, config: dict[str, Any], weights: Weights) -> tf.Tensor:
    """Map normalised pixels float32[N, S, S, 3] to one of list_layers, float32[N, D].

    Tokens are float32[N, T, width]: class, distillation, registers as far as there are any, and then the patches.
    """
    kind, width, heads = config["model_type"], config["hidden_size"], config["num_attention_heads"]
    family, norm, no_scale = FAMILIES[kind], config["layer_norm_eps"], np.ones(1, np.float32)
    names = {row.split()[0]: row.split()[family.column] for row in NAMES.strip().splitlines()}
    prefix = family.prefix if any(name.startswith(family.prefix) for name in weights.names) else ""

    def take(name: str, *shape: int | None) -> np.ndarray:
        beside = name == "visual_projection.weight"  # the tower of CLIP does not contain it
        return weights.take(name if beside else prefix + name, *shape)

    def multiply(x: tf.Tensor, kernel: np.ndarray, bias: np.ndarray) -> tf.Tensor:
        flat = tf.matmul(tf.reshape(x, [-1, x.shape[-1]]), np.ascontiguousarray(kernel.T))
        return tf.reshape(tf.nn.bias_add(flat, bias), [-1, x.shape[1], len(bias)])

    def add_dense(x: tf.Tensor, name: str, outputs: int, scale: np.ndarray = no_scale) -> tf.Tensor:
        kernel, bias = take(f"{name}.weight", outputs, x.shape[-1]), take(f"{name}.bias", outputs)
        return multiply(x, kernel * scale[:, None], bias * scale)

    def add_hidden(x: tf.Tensor, first: str, second: str, scale: np.ndarray = no_scale) -> tf.Tensor:
        hidden = ACTIVATE[config["hidden_act"]](add_dense(x, first, config["intermediate_size"]))
        return add_dense(hidden, second, width, scale)

    def normalise(x: tf.Tensor, name: str) -> tf.Tensor:
        mean, variance = tf.nn.moments(x, [-1], keepdims=True)
        scale, shift = take(f"{name}.weight", width), take(f"{name}.bias", width)
        return tf.nn.batch_normalization(x, mean, variance, shift, scale, norm)

    def split(x: tf.Tensor, kernel: np.ndarray, bias: np.ndarray) -> list[tf.Tensor]:  # to [N, heads, T, width / heads]
        shape = [-1, x.shape[1], len(bias) // width, heads, width // heads]
        return tf.unstack(tf.transpose(tf.reshape(multiply(x, kernel, bias), shape), [2, 0, 3, 1, 4]))

    def attend(query: tf.Tensor, key: tf.Tensor, value: tf.Tensor) -> tf.Tensor:
        scores = tf.matmul(query * (width // heads) ** -0.5, key, transpose_b=True)
        found = tf.transpose(tf.matmul(tf.nn.softmax(scores), value), [0, 2, 1, 3])
        return tf.reshape(found, [-1, query.shape[2], width])

    def embed() -> tf.Tensor:
        patch, batch = config["patch_size"], () if family.column == 3 else (1,)
        kernel = take(f"{names['patches']}.weight", width, 3, patch, patch).transpose(2, 3, 1, 0)
        patches = tf.nn.conv2d(pixels, kernel, patch, "VALID")
        grid, side = patches.shape[1], config["image_size"] // patch
        first = [names["class"]] if kind != "siglip" else []
        first += ["embeddings.distillation_token"] if kind == "deit" else []
        table = names["positions"] + ("" if batch else ".weight")
        places = take(table, *batch, len(first) + side**2, width).reshape(-1, width)
        tokens = [places[i] + take(name, *batch, *batch, width).reshape(width) for i, name in enumerate(first)]
        places = places[len(first) :]
        if grid != side:
            rows = resample(side, grid, antialias=kind == "dinov2_with_registers")
            places = np.einsum("ai,bj,ijd->abd", rows, rows, places.reshape(side, side, width)).reshape(-1, width)
        if kind != "clip":
            places = places + take(f"{names['patches']}.bias", width)
        if kind == "dinov2_with_registers":
            tokens += [*take("embeddings.register_tokens", 1, config["num_register_tokens"], width)[0]]
        x = tf.reshape(patches, [-1, grid**2, width]) + places.astype(np.float32)
        return tf.concat([tf.tile(np.stack(tokens)[None], [tf.shape(x)[0], 1, 1]), x], 1) if tokens else x

    def add_block(x: tf.Tensor, name: str) -> tf.Tensor:
        part, scales = {key: name + tensor for key, tensor in names.items()}, [no_scale, no_scale]
        if family.column == 2:
            scales = [take(f"{name}layer_scale{number}.lambda1", width) for number in (1, 2)]
        kernel = np.concatenate([take(f"{part[key]}.weight", width, width) for key in ("query", "key", "value")])
        bias = np.concatenate([take(f"{part[key]}.bias", width) for key in ("query", "key", "value")])
        attended = attend(*split(normalise(x, part["norm1"]), kernel, bias))
        x = x + add_dense(attended, part["out"], width, scales[0])
        return x + add_hidden(normalise(x, part["norm2"]), part["fc1"], part["fc2"], scales[1])

    def pool(x: tf.Tensor) -> tf.Tensor:
        if kind == "clip":
            return tf.matmul(x[:, 0], take("visual_projection.weight", None, width).T)
        if kind != "siglip":
            return tf.tanh(add_dense(x[:, :1], "pooler.dense", config.get("pooler_output_size") or width))[:, 0]
        kernel, bias = (
            take("head.attention.in_proj_weight", 3 * width, width),
            take("head.attention.in_proj_bias", 3 * width),
        )
        (query,) = split(tf.constant(take("head.probe", 1, 1, width)), kernel[:width], bias[:width])
        attended = attend(query, *split(x, kernel[width:], bias[width:]))
        x = add_dense(attended, "head.attention.out_proj", width)
        return (x + add_hidden(normalise(x, "head.layernorm"), "head.mlp.fc1", "head.mlp.fc2"))[:, 0]

    with tf.name_scope("vit"):
        x = normalise(embed(), "pre_layrnorm") if kind == "clip" else embed()
    for number in range(config["num_hidden_layers"]):
        with tf.name_scope(f"vit/block{number}"):
            x = add_block(x, f"{names['block']}.{number}.")
        x = tf.identity(x, f"block{number}")
    with tf.name_scope("vit"):
        x = normalise(x[:, :1] if layer == CLASS else x, names["norm"])
        patches = (pixels.shape[1] // config["patch_size"]) ** 2
        found = {CLASS: x[:, 0], MEAN: tf.reduce_mean(x[:, -patches:], 1)}
        return pool(x) if layer == POOLED else tf.concat([found[part] for part in layer.split("+")], -1)


def resample(source: int, target: int, antialias: bool) -> np.ndarray:
    """Return the bicubic weights float64[target, source] of a side, those of torch.nn.functional.interpolate."""
    scale = source / target
    places, slope = ((np.arange(target) + 0.5) * scale - 0.5)[:, None], -0.5 if antialias else -0.75
    x = np.abs(np.arange(-2, source + 2) - places) / (max(scale, 1.0) if antialias else 1.0)
    near, far = (slope + 2) * x**3 - (slope + 3) * x**2 + 1, slope * (x**3 - 5 * x**2 + 8 * x - 4)
    weights = np.where(x <= 1, near, np.where(x < 2, far, 0))  # Keys' cubic (1981)
    if antialias:
        return weights[:, 2:-2] / weights[:, 2:-2].sum(1, keepdims=True)
    weights[:, 2] += weights[:, :2].sum(1)  # beyond the border stands the value at the border
    weights[:, -3] += weights[:, -2:].sum(1)
    return weights[:, 2:-2]
