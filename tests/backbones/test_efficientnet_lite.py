import numpy as np
import pytest
import tensorflow as tf

from components.backbones.efficientnet_lite import add_lite_network, build_lite, load_weights, stage_strides
from components.backbones.spec import EMBEDDED

# The last blocks of the last four stages, by depth.
ENDS = {1.0: (7, 10, 14, 15), 1.1: (10, 14, 19, 20), 1.2: (10, 14, 19, 20)}


def keras_forward(weights, depth, pixels):
    """The same network layer by layer in Keras, batch normalisation not folded: an independent computation."""
    layers = tf.keras.layers

    def normalise(x, name):
        layer = layers.BatchNormalization(epsilon=1e-3)
        layer.build(x.shape)
        layer.set_weights([weights[f"{name}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")])
        return layer(x, training=False)

    def convolve(x, name, stride=1, depthwise=False):
        kernel = weights[f"{name}.weight"].transpose(2, 3, 1, 0)
        if depthwise:
            layer = layers.DepthwiseConv2D(kernel.shape[0], stride, "same", use_bias=False)
            kernel = kernel.transpose(0, 1, 3, 2)
        else:
            layer = layers.Conv2D(kernel.shape[-1], kernel.shape[0], stride, "same", use_bias=False)
        layer.build(x.shape)
        layer.set_weights([kernel])
        return layer(x)

    relu6 = layers.ReLU(6.0)
    x = relu6(normalise(convolve(pixels, "_conv_stem", 2), "_bn0"))
    parts = []
    for number, stride in enumerate(sum(stage_strides(depth), [])):
        block, entry = f"_blocks.{number}", x
        if number:
            x = relu6(normalise(convolve(x, f"{block}._expand_conv"), f"{block}._bn0"))
        x = relu6(normalise(convolve(x, f"{block}._depthwise_conv", stride, depthwise=True), f"{block}._bn1"))
        x = normalise(convolve(x, f"{block}._project_conv"), f"{block}._bn2")
        if stride == 1 and x.shape == entry.shape:
            x = layers.add([x, entry])
        if number in ENDS[depth]:
            parts.append(layers.GlobalAveragePooling2D()(x))
    parts.append(layers.GlobalAveragePooling2D()(relu6(normalise(convolve(x, "_conv_head"), "_bn1"))))
    scaled = [part.numpy() / np.linalg.norm(part, axis=1, keepdims=True) * part.shape[1] ** 0.5 for part in parts]
    probabilities = tf.nn.softmax(parts[-1] @ weights["_fc.weight"].T + weights["_fc.bias"])
    return np.concatenate(scaled, 1), probabilities


@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"])
def test_equals_an_independent_forward_pass_of_the_same_weights(name):
    lite = EMBEDDED[name]
    weights = load_weights(name)
    pixels = tf.constant(np.random.default_rng(0).uniform(-1, 1, (2, lite.size, lite.size, 3)), tf.float32)
    bottleneck, probabilities = add_lite_network(pixels, weights, lite.depth)
    expected_bottleneck, expected_probabilities = keras_forward(weights, lite.depth, pixels)
    assert bottleneck.shape == (2, lite.dim)
    np.testing.assert_allclose(bottleneck, expected_bottleneck, atol=5e-3)
    np.testing.assert_allclose(probabilities, expected_probabilities, atol=1e-3)
    assert np.ptp(bottleneck) > 0.5


def test_another_size_of_the_input_is_that_of_the_network():
    network = build_lite("efficientnet_lite0", 64)
    pixels = np.random.default_rng(0).uniform(-1, 1, (2, 64, 64, 3)).astype(np.float32)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.import_graph_def(network.graph_def, name="")
        found = session.run(network.bottleneck, {network.input: pixels})
    weights = load_weights("efficientnet_lite0")
    np.testing.assert_allclose(found, keras_forward(weights, 1.0, tf.constant(pixels))[0], atol=5e-3)
    assert network.size == 64


def test_lite0_and_lite2_have_the_blocks_that_their_weights_have():
    for name, lite in EMBEDDED.items():
        blocks = {key.split(".")[1] for key in load_weights(name) if key.startswith("_blocks")}
        assert sum(map(len, stage_strides(lite.depth))) == len(blocks), name
