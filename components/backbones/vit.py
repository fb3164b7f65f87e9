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
from components.backbones.vit_config import FAMILIES, read_config, read_preprocessing
from components.backbones.vit_weights import Weights
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
        resize, size, shift, divisor = read_preprocessing(local, spec.vit, config["model_type"], spec.size)
        network, layer = VisionTransformer(config, weights), spec.layer or FAMILIES[config["model_type"]].layer
        if layer not in network.layers:
            raise UserError(f"'{spec.vit}' has no layer '{layer}': expected one of {', '.join(network.layers)}.")
        if size < config["patch_size"]:
            raise UserError(f"backbone.size is {size}, below the patches of '{spec.vit}': expected a larger one.")
        pixels = tf.compat.v1.placeholder(tf.float32, [None, size, size, 3], "pixels")
        bottleneck, rest = network.add(pixels, layer), weights.describe_rest()
    if rest:
        print(printable(f"topgraft: '{spec.vit}' has tensors that are left out: {rest}."), file=sys.stderr)
    title = replace(spec, vit=place).title
    names = pixels.name, bottleneck.name
    return Network(graph.as_graph_def(), *names, size, shift, divisor, resize=resize, title=title)


class VisionTransformer:
    """The network of a folder's config.json and weights, added to the default graph; layers has those that it has.

    Tokens are float32[N, T, width]: class, distillation, registers as far as there are any, and then the patches.
    """

    def __init__(self, config: dict[str, Any], weights: Weights):
        self._kind, self._config, self._weights = config["model_type"], config, weights
        self._family, self._width, self._heads = (
            FAMILIES[self._kind],
            config["hidden_size"],
            config["num_attention_heads"],
        )
        self._names = self._family.names
        prefix = self._family.prefix
        has_prefix = any(name.startswith(prefix) for name in weights.names)
        self._prefix = prefix if has_prefix else ""
        self.layers = [MEAN] if self._kind == "siglip" else [CLASS, MEAN, BOTH]
        if self._family.pool and any(name.startswith(self._full(self._family.pool)) for name in weights.names):
            self.layers.append(POOLED)

    def add(self, pixels: tf.Tensor, layer: str) -> tf.Tensor:
        """Map normalised pixels float32[N, S, S, 3] to one of self.layers, float32[N, D]."""
        with tf.name_scope("vit"):
            x, patches = self._embed(pixels)
            x = self._normalise(x, "pre_layrnorm") if self._kind == "clip" else x
        for number in range(self._config["num_hidden_layers"]):
            with tf.name_scope(f"vit/block{number}"):
                x = self._add_block(x, f"{self._names['block']}.{number}.")
            x = tf.identity(x, f"block{number}")
        with tf.name_scope("vit"):
            x = self._normalise(x[:, :1] if layer == CLASS else x, self._names["norm"])
            if layer == POOLED:
                return self._pool(x)
            parts = {CLASS: x[:, 0], MEAN: tf.reduce_mean(x[:, -patches:], 1)}
            return tf.concat([parts[part] for part in layer.split("+")], -1)

    def _full(self, name: str) -> str:
        return name if name.startswith("visual_projection") else self._prefix + name  # it stands beside the tower

    def _take(self, name: str, *shape: int | None) -> np.ndarray:
        return self._weights.take(self._full(name), *shape)

    def _embed(self, pixels: tf.Tensor) -> tuple[tf.Tensor, int]:
        """Map pixels to tokens with their positions, and the number of patches."""
        width, patch, names = self._width, self._config["patch_size"], self._names
        kernel = self._take(f"{names['patches']}.weight", width, 3, patch, patch).transpose(2, 3, 1, 0)
        patches = tf.nn.conv2d(pixels, kernel, patch, "VALID")
        grid, side = patches.shape[1], self._config["image_size"] // patch
        first = [names["class"]] if self._kind != "siglip" else []
        first += ["embeddings.distillation_token"] if self._kind == "deit" else []
        # CLIP and SigLIP have the table of an embedding, the others a batch of one.
        batch = () if self._family.column == 3 else (1,)
        positions = names["positions"] + (".weight" if not batch else "")
        places = self._take(positions, *batch, len(first) + side**2, width).reshape(-1, width)
        tokens = [places[i] + self._take(name, *batch, *batch, width).reshape(width) for i, name in enumerate(first)]
        places = places[len(first) :]
        if grid != side:
            rows = resample(side, grid, antialias=self._kind == "dinov2_with_registers")
            places = np.einsum("ai,bj,ijd->abd", rows, rows, places.reshape(side, side, width)).reshape(-1, width)
        if self._kind != "clip":
            places = places + self._take(f"{names['patches']}.bias", width)
        if self._kind == "dinov2_with_registers":
            tokens += [*self._take("embeddings.register_tokens", 1, self._config["num_register_tokens"], width)[0]]
        x = tf.reshape(patches, [-1, grid**2, width]) + places.astype(np.float32)
        if tokens:
            x = tf.concat([tf.tile(np.stack(tokens)[None], [tf.shape(x)[0], 1, 1]), x], 1)
        return x, grid**2

    def _add_block(self, x: tf.Tensor, name: str) -> tf.Tensor:
        width, names, scales = (
            self._width,
            {key: name + part for key, part in self._names.items()},
            [np.ones(1), np.ones(1)],
        )
        if self._family.column == 2:
            scales = [self._take(f"{name}layer_scale{number}.lambda1", width) for number in (1, 2)]
        kernel, bias = (
            np.concatenate([self._take(f"{names[part]}.{kind}", *shape) for part in ("query", "key", "value")])
            for kind, shape in (("weight", (width, width)), ("bias", (width,)))
        )
        attended = self._attend(*self._split(self._normalise(x, names["norm1"]), kernel, bias))
        x = x + self._add_dense(attended, names["out"], width, scales[0])
        return x + self._add_hidden(self._normalise(x, names["norm2"]), names["fc1"], names["fc2"], scales[1])

    def _split(self, x: tf.Tensor, kernel: np.ndarray, bias: np.ndarray) -> list[tf.Tensor]:
        """Map tokens by a kernel float32[P * width, width] to P parts float32[N, heads, T, width / heads]."""
        shape = [-1, x.shape[1], len(bias) // self._width, self._heads, self._width // self._heads]
        return tf.unstack(tf.transpose(tf.reshape(_multiply(x, kernel, bias), shape), [2, 0, 3, 1, 4]))

    def _attend(self, query: tf.Tensor, key: tf.Tensor, value: tf.Tensor) -> tf.Tensor:
        """Map query float32[N, heads, Q, D], key and value float32[N, heads, T, D] to float32[N, Q, heads * D]."""
        scores = tf.matmul(query * (self._width // self._heads) ** -0.5, key, transpose_b=True)
        found = tf.transpose(tf.matmul(tf.nn.softmax(scores), value), [0, 2, 1, 3])
        return tf.reshape(found, [-1, query.shape[2], self._width])

    def _add_hidden(self, x: tf.Tensor, first: str, second: str, scale: Any = 1.0) -> tf.Tensor:
        hidden = self._add_dense(x, first, self._config["intermediate_size"])
        return self._add_dense(ACTIVATE[self._config["hidden_act"]](hidden), second, self._width, scale)

    def _add_dense(self, x: tf.Tensor, name: str, width: int | None, scale: Any = 1.0) -> tf.Tensor:
        kernel = self._take(f"{name}.weight", width, x.shape[-1])
        has_bias = name != "visual_projection"
        bias = self._take(f"{name}.bias", len(kernel)) if has_bias else np.zeros(len(kernel), np.float32)
        return _multiply(x, (kernel.T * scale).T.astype(np.float32), (bias * scale).astype(np.float32))

    def _normalise(self, x: tf.Tensor, name: str) -> tf.Tensor:
        scale, shift = (self._take(f"{name}.{part}", self._width) for part in ("weight", "bias"))
        mean, variance = tf.nn.moments(x, [-1], keepdims=True)
        return tf.nn.batch_normalization(x, mean, variance, shift, scale, self._config["layer_norm_eps"])

    def _pool(self, x: tf.Tensor) -> tf.Tensor:
        """Map the last tokens to the family's own features float32[N, D]."""
        pool, width = self._family.pool, self._width
        if self._kind != "siglip":
            pooled = self._add_dense(x[:, :1], pool, None)[:, 0]
            return pooled if self._kind == "clip" else tf.tanh(pooled)
        kernel = self._take(f"{pool}.attention.in_proj_weight", 3 * width, width)
        bias = self._take(f"{pool}.attention.in_proj_bias", 3 * width)
        (query,) = self._split(tf.constant(self._take(f"{pool}.probe", 1, 1, width)), kernel[:width], bias[:width])
        attended = self._attend(query, *self._split(x, kernel[width:], bias[width:]))
        x = self._add_dense(attended, f"{pool}.attention.out_proj", width)
        hidden = self._add_hidden(self._normalise(x, f"{pool}.layernorm"), f"{pool}.mlp.fc1", f"{pool}.mlp.fc2")
        return (x + hidden)[:, 0]


def _multiply(x: tf.Tensor, kernel: np.ndarray, bias: np.ndarray) -> tf.Tensor:
    """Map x float32[N, T, D] by a kernel [E, D] and a bias [E] to float32[N, T, E]."""
    flat = tf.matmul(tf.reshape(x, [-1, x.shape[-1]]), np.ascontiguousarray(kernel.T))
    return tf.reshape(tf.nn.bias_add(flat, bias), [-1, x.shape[1], len(bias)])


def resample(source: int, target: int, antialias: bool) -> np.ndarray:
    """Return the bicubic weights float64[target, source] of a side, those of torch.nn.functional.interpolate."""
    scale = source / target
    places = ((np.arange(target) + 0.5) * scale - 0.5)[:, None]
    if antialias:
        weights = _cubic((np.arange(source) - places) / max(scale, 1.0), -0.5)
        return weights / weights.sum(1, keepdims=True)
    weights = np.zeros((target, source))
    for tap in range(-1, 3):  # beyond the border stands the value at the border
        near = np.floor(places).astype(int) + tap
        np.add.at(weights, (np.arange(target)[:, None], near.clip(0, source - 1)), _cubic(near - places, -0.75))
    return weights


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
    """Return Keys' cubic (1981) with the slope a at distance 1."""
    x = np.abs(x)
    outer = a * (x**3 - 5 * x**2 + 8 * x - 4)
    return np.where(x <= 1, (a + 2) * x**3 - (a + 3) * x**2 + 1, np.where(x < 2, outer, 0))
