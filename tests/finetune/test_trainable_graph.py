import numpy as np
import pytest
import tensorflow as tf
from toys import quiet_progress, refusal

from components.backbones.network import freeze
from components.backbones.prepare import BackboneSession, load_graph, prepare_backbone, read_backbone, write_backbone
from components.backbones.spec import parse_backbone
from components.finetune.trainable_graph import (
    add_trainable,
    read_constants,
    replace_constants,
    weights_after,
    weights_of_last,
)
from components.train.estimator import StartValues

v1 = tf.compat.v1


def prepare(value, folder):
    return folder / prepare_backbone(parse_backbone(value), folder, quiet_progress()).id


@pytest.fixture(scope="module")
def mobile(tmp_path_factory):
    """The folder of a Keras application with random weights and batch norms, prepared."""
    return prepare({"keras": "MobileNetV2", "weights": "none", "size": 96}, tmp_path_factory.mktemp("mobile"))


@pytest.fixture
def backbone(request):
    return request.getfixturevalue(request.param)


both = pytest.mark.parametrize("backbone", ["lite", "mobile"], indirect=True)


def draw_pixels(folder, count=2):
    side = read_backbone(folder).size
    return np.random.default_rng(0).uniform(-1, 1, (count, side, side, 3)).astype(np.float32)


def constants_of(graph_def):
    """Return the values of all constants by name."""
    return {node.name: tf.make_ndarray(node.attr["value"].tensor) for node in graph_def.node if node.op == "Const"}


def measure(bottleneck):
    """A loss that the lengths of a bottleneck's parts, which are constant, do not decide."""
    return tf.reduce_mean(tf.square(bottleneck - 1))


class Trainable:
    """A network with variables, in a session of its own, and a measure of its bottleneck as loss."""

    def __init__(self, graph_def, weights, pixels):
        with tf.Graph().as_default() as graph:
            self.pixels = v1.placeholder(tf.float32, [None, *pixels.shape[1:]])
            self.bottleneck, self.variables = add_trainable(graph_def, self.pixels, weights)
            self.loss = measure(self.bottleneck)
            self.gradients = dict(zip(weights, tf.gradients(self.loss, list(self.variables.values())), strict=True))
            self.step = v1.train.AdamOptimizer(1e-3).minimize(self.loss)
            self.session = v1.Session(graph=graph)
            self.session.run(v1.global_variables_initializer())
        self.feed = {self.pixels: pixels}
        for name, value in read_constants(graph_def, weights).items():
            self.load(name, value)

    def run(self, fetches):
        return self.session.run(fetches, self.feed)

    def load(self, name, value):
        with self.session.graph.as_default():
            self.variables[name].load(value, self.session)


def write_frozen(folder, function, size=16):
    """Freeze a function of pixels and return the canonical graph of it."""
    graph_def, source, (output,) = freeze(function, size)
    (folder / "frozen.pb").write_bytes(graph_def.SerializeToString())
    spec = {"frozen_graph": str(folder / "frozen.pb"), "input": source, "bottleneck": output}
    return prepare(spec, folder)


def draw_array(*shape):
    return np.random.default_rng(sum(shape)).uniform(0.5, 1, shape).astype(np.float32)


def draw(*shape):
    return tf.Variable(draw_array(*shape))


def named(graph_def, weights, variables):
    """Return which variables of a frozen function some constants are."""
    values = constants_of(graph_def)
    return [
        next(key for key, variable in variables.items() if np.array_equal(variable.numpy(), values[name]))
        for name in weights
    ]


def test_the_last_layers_of_the_embedded_network_are_its_last_kernels_with_their_biases(lite):
    graph_def = load_graph(lite)
    constants = constants_of(graph_def)
    shapes = [constants[name].shape for name in weights_of_last(graph_def, 3)]
    assert shapes == [(3, 3, 1152, 1), (1152,), (1, 1, 1152, 320), (320,), (1, 1, 320, 1280), (1280,)]


def test_all_layers_of_an_application_are_what_keras_trains(mobile):
    graph_def = load_graph(mobile)
    model = tf.keras.applications.MobileNetV2(include_top=False, weights=None, input_shape=(96, 96, 3))
    constants = constants_of(graph_def)
    shapes = [constants[name].shape for name in weights_of_last(graph_def, 52)]
    assert sorted(shapes) == sorted(tuple(weight.shape) for weight in model.trainable_weights)


def test_what_lies_behind_a_block_is_trained_whether_named_as_layer_or_as_tensor(lite):
    graph_def = load_graph(lite)
    # Block 15 expands, filters and projects; the head's convolution follows.
    assert weights_after(graph_def, "block14") == weights_of_last(graph_def, 4)
    assert weights_after(graph_def, "block14:0") == weights_of_last(graph_def, 4)


@both
def test_before_training_the_network_gives_the_bottleneck_of_the_backbone(backbone):
    graph_def, pixels = load_graph(backbone), draw_pixels(backbone)
    expected = BackboneSession(backbone).compute_from_pixels([pixels])
    trainable = Trainable(graph_def, weights_of_last(graph_def, 3), pixels)
    assert trainable.bottleneck.shape.as_list()[1] in (1280, 1984)
    np.testing.assert_allclose(
        trainable.run(trainable.bottleneck), expected, rtol=1e-5, atol=np.abs(expected).max() / 1e5
    )


@both
def test_trained_values_written_back_give_a_backbone_that_equals_the_network(backbone, tmp_path):
    graph_def, pixels = load_graph(backbone), draw_pixels(backbone)
    weights = weights_of_last(graph_def, 5)
    trainable = Trainable(graph_def, weights, pixels)
    before = trainable.run(trainable.bottleneck)
    for _ in range(5):
        trainable.run(trainable.step)
    trained = replace_constants(graph_def, trainable.run(trainable.variables))
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(trained, name="")
    written = write_backbone("trained", graph, (), "", tmp_path)
    after = BackboneSession(tmp_path / written.id).compute_from_pixels([pixels])
    expected = trainable.run(trainable.bottleneck)
    np.testing.assert_allclose(after, expected, rtol=1e-4, atol=np.abs(expected).max() / 1e4)
    assert np.abs(after - before).max() > np.abs(before).max() / 100


def test_only_the_constants_that_are_named_change(lite):
    graph_def = load_graph(lite)
    weights = weights_of_last(graph_def, 2)
    old = constants_of(graph_def)
    trained = replace_constants(graph_def, {name: old[name] + 1 for name in weights})
    for name, value in constants_of(trained).items():
        np.testing.assert_array_equal(value, old[name] + 1 if name in weights else old[name])
    for node, before in zip(trained.node, graph_def.node, strict=True):
        if node.name in weights:
            node.attr["value"].CopyFrom(before.attr["value"])
    assert trained == graph_def
    with pytest.raises(TypeError):
        replace_constants(graph_def, {weights[0]: old[weights[1]]})


def test_gradients_are_those_of_keras_layers_with_the_same_weights(mobile):
    graph_def, pixels = load_graph(mobile), draw_pixels(mobile, 4)
    weights = weights_of_last(graph_def, 1)
    trainable = Trainable(graph_def, weights, pixels)
    (name,) = (node.name for node in graph_def.node if node.name.endswith("Conv_1/Conv2D"))
    prefix = name.removesuffix("/Conv2D")
    values = constants_of(graph_def)
    statistics = [
        values[f"{prefix}_bn/FusedBatchNormV3/{part}/resource"] for part in ("ReadVariableOp", "ReadVariableOp_1")
    ]
    maps = BackboneSession(mobile).run(
        prefix.replace("Conv_1", "block_16_project_BN/FusedBatchNormV3"), "pixels", pixels
    )
    convolution = tf.keras.layers.Conv2D(1280, 1, use_bias=False)
    norm = tf.keras.layers.BatchNormalization(epsilon=1e-3)
    network = tf.keras.Sequential(
        [convolution, norm, tf.keras.layers.ReLU(6), tf.keras.layers.GlobalAveragePooling2D()]
    )
    network.build(maps.shape)
    network.set_weights([values[weights[0]], *(values[weight] for weight in weights[1:]), *statistics])
    with tf.GradientTape() as tape:
        loss = measure(network(maps, training=False))
    expected = tape.gradient(loss, network.trainable_weights)
    for gradient, other in zip(trainable.run(trainable.gradients).values(), expected, strict=True):
        assert np.abs(other).max() > 0
        np.testing.assert_allclose(gradient, other, rtol=1e-3, atol=np.abs(other).max() / 1e4)


def test_gradients_are_the_slopes_of_the_loss(lite):
    graph_def, pixels = load_graph(lite), draw_pixels(lite)
    weights = weights_of_last(graph_def, 8)
    trainable = Trainable(graph_def, weights, pixels)
    random = np.random.default_rng(0)
    gradients = trainable.run(trainable.gradients)
    start = trainable.run(trainable.variables)
    for name in weights:
        way = random.normal(size=gradients[name].shape) * np.abs(gradients[name])
        way = (way + gradients[name]) / np.linalg.norm(way + gradients[name])
        size = 1e-4 * np.linalg.norm(start[name])
        losses = []
        for sign in (1, -1):
            trainable.load(name, start[name] + sign * size * way)
            losses.append(trainable.run(trainable.loss))
        trainable.load(name, start[name])
        slope = np.sum(gradients[name] * way, dtype=np.float64)
        assert (losses[0] - losses[1]) / (2 * size) == pytest.approx(slope, rel=0.03)


def test_preprocessing_and_statistics_are_never_trained_and_written_out_norms_are(tmp_path):
    variables = {
        "mean of a channel": draw(3),
        "first kernel": draw(3, 3, 3, 4),
        "first mean": draw(4),
        "first variance": draw(1, 1, 1, 4),
        "first beta": draw(1, 4),
        "first gamma": draw(1, 1, 4),
        "second kernel": draw(3, 3, 4, 5),
        "second mean": draw(5),
        "second variance": tf.Variable([1.0, 2, 3, 4, 5]),
        "second beta": tf.Variable([2.0, 2, 3, 4, 5]),
        "second gamma": tf.Variable([3.0, 2, 3, 4, 5]),
        "dense kernel": draw(5, 6),
        "dense bias": draw(6),
    }

    def network(pixels):
        x = (pixels - variables["mean of a channel"]) * [0.5, 0.4, 0.3] / 127.5
        x = tf.nn.conv2d(x, variables["first kernel"], 2, "SAME")
        norm = [variables[f"first {part}"] for part in ("mean", "variance", "beta", "gamma")]
        x = tf.nn.silu(tf.nn.batch_normalization(x, *norm, 1e-3)) * 2.0
        x = tf.nn.conv2d(x, variables["second kernel"], 2, "SAME")
        norm = [variables[f"second {part}"] for part in ("gamma", "beta", "mean", "variance")]
        x = tf.nn.relu(tf.compat.v1.nn.fused_batch_norm(x, *norm, is_training=False)[0])
        return tf.matmul(tf.reduce_mean(x, [1, 2]), variables["dense kernel"]) + variables["dense bias"]

    folder = write_frozen(tmp_path, network)
    graph_def, pixels = load_graph(folder), draw_pixels(folder)
    weights = weights_of_last(graph_def, 3)
    trained = [name for name in variables if not name.endswith(("mean of a channel", " mean", " variance"))]
    assert sorted(named(graph_def, weights, variables)) == sorted(trained)
    assert named(graph_def, weights_of_last(graph_def, 1), variables) == ["dense kernel", "dense bias"]
    assert weights_after(graph_def, "sub") == weights
    trainable = Trainable(graph_def, weights, pixels)
    with tf.GradientTape() as tape:
        loss = measure(network(tf.constant(pixels)))
    order = named(graph_def, weights, variables)
    expected = tape.gradient(loss, [variables[name] for name in order])
    for gradient, other in zip(trainable.run(trainable.gradients).values(), expected, strict=True):
        np.testing.assert_allclose(gradient, other, rtol=1e-3, atol=1e-6)


def test_a_constant_that_an_earlier_layer_or_a_statistic_shares_stays(tmp_path):
    variables = {"shared": draw(3, 3, 3, 3), "ones": tf.ones([3]), "beta": draw(3), "kernel": draw(3, 3, 3, 5)}

    def network(pixels):
        x = tf.nn.conv2d(tf.nn.conv2d(pixels, variables["shared"], 1, "SAME"), variables["shared"], 1, "SAME")
        norm = variables["ones"], variables["beta"], tf.zeros([3]), variables["ones"]
        x = tf.compat.v1.nn.fused_batch_norm(x, *norm, is_training=False)[0]
        return tf.reduce_mean(tf.nn.conv2d(x, variables["kernel"], 2, "SAME"), [1, 2])

    graph_def = load_graph(write_frozen(tmp_path, network))
    assert named(graph_def, weights_of_last(graph_def, 2), {**variables, "ones": tf.Variable(tf.ones([3]))}) == [
        "beta",
        "kernel",
    ]
    assert named(graph_def, weights_of_last(graph_def, 3), variables)[0] == "shared"


def test_a_compiled_convolution_in_groups_is_trained(tmp_path):
    layer = tf.keras.layers.Conv2D(6, 3, 2, "same", groups=6)  # as in ConvNeXt
    first = draw(1, 1, 3, 6)

    def network(pixels):
        return tf.reduce_mean(tf.nn.relu(layer(tf.nn.conv2d(pixels, first, 1, "SAME"))), [1, 2])

    layer.build([None, 16, 16, 6])
    folder = write_frozen(tmp_path, network)
    graph_def, pixels = load_graph(folder), draw_pixels(folder)
    weights = weights_of_last(graph_def, 2)
    trainable = Trainable(graph_def, weights, pixels)
    np.testing.assert_allclose(trainable.run(trainable.bottleneck), network(tf.constant(pixels)), atol=1e-5)
    kernel = tf.Variable(tf.transpose(layer.kernel, [0, 1, 3, 2]))
    with tf.GradientTape() as tape:
        x = tf.nn.depthwise_conv2d(tf.nn.conv2d(pixels, first, 1, "SAME"), kernel, [1, 2, 2, 1], "SAME")
        loss = measure(tf.reduce_mean(tf.nn.relu(x + layer.bias), [1, 2]))
    expected = tape.gradient(loss, [first, kernel, layer.bias])
    found = list(trainable.run(trainable.gradients).values())
    for gradient, other in zip([found[0], found[1].transpose(0, 1, 3, 2), found[2]], expected, strict=True):
        np.testing.assert_allclose(gradient, other, rtol=1e-3, atol=1e-7)


def test_the_batch_norm_of_graphs_of_2015_is_trained_but_for_its_statistics(tmp_path):
    with tf.Graph().as_default() as graph:
        pixels = v1.placeholder(tf.float32, [None, 16, 16, 3], "input")
        tf.nn.conv2d(pixels, draw_array(3, 3, 3, 4), 2, "SAME", name="convolution")
        parts = [tf.constant(draw_array(4), name=name).op.name for name in ("mean", "variance", "beta", "gamma")]
    graph_def = graph.as_graph_def()
    graph_def.versions.producer = 8  # TensorFlow has withdrawn the operation from later graphs
    kind = "BatchNormWithGlobalNormalization"
    norm = graph_def.node.add(name="norm", op=kind, input=["convolution", *parts])
    norm.attr["T"].type, norm.attr["variance_epsilon"].f = tf.float32.as_datatype_enum, 1e-3
    norm.attr["scale_after_normalization"].b = True
    (tmp_path / "old.pb").write_bytes(graph_def.SerializeToString())
    folder = prepare({"frozen_graph": str(tmp_path / "old.pb"), "input": "input", "bottleneck": "norm"}, tmp_path)
    weights = weights_of_last(load_graph(folder), 1)
    assert weights == ["network/convolution/filter", "network/beta", "network/gamma"]
    trainable = Trainable(load_graph(folder), weights, draw_pixels(folder))
    assert all(np.abs(gradient).max() > 0 for gradient in trainable.run(trainable.gradients).values())


def test_an_estimator_starts_from_the_constants_and_goes_on_from_its_checkpoint(tmp_path, lite):
    graph_def = load_graph(lite)
    weights = weights_of_last(graph_def, 1)
    started = constants_of(graph_def)

    def model_fn(features, labels, mode):
        bottleneck, _ = add_trainable(graph_def, features, weights)
        loss = measure(bottleneck)
        step = v1.train.GradientDescentOptimizer(0.1).minimize(loss, v1.train.get_global_step())
        return tf.estimator.EstimatorSpec(mode, loss=loss, train_op=step)

    pixels = draw_pixels(lite)
    estimator = tf.estimator.Estimator(model_fn, str(tmp_path))

    def train(*hooks):
        estimator.train(lambda: tf.data.Dataset.from_tensors(pixels), hooks, steps=1)
        return {name: estimator.get_variable_value(name) for name in weights}

    trainable = Trainable(graph_def, weights, pixels)
    gradients = trainable.run(trainable.gradients)
    first = train(StartValues(read_constants(graph_def, weights)))
    for name in weights:
        np.testing.assert_allclose(first[name], started[name] - 0.1 * gradients[name], atol=1e-5)
        trainable.load(name, first[name])
    gradients, second = trainable.run(trainable.gradients), train()
    for name in weights:
        assert not np.array_equal(second[name], first[name])
        np.testing.assert_allclose(second[name], first[name] - 0.1 * gradients[name], atol=1e-5)


def test_the_graph_does_not_hold_the_weights_a_second_time(lite):
    graph_def = load_graph(lite)
    with tf.Graph().as_default() as graph:
        _, variables = add_trainable(
            graph_def, v1.placeholder(tf.float32, [None, 224, 224, 3]), weights_of_last(graph_def, 49)
        )
    assert sum(variable.shape.num_elements() for variable in variables.values()) == 3_350_000
    assert graph.as_graph_def().ByteSize() < 1_000_000


def test_more_layers_than_there_are_is_the_users_mistake(lite, tmp_path, toy_backbone):
    assert "layers is 50, but the backbone has 49" in refusal(weights_of_last, load_graph(lite), 50)
    toy = load_graph(prepare(toy_backbone, tmp_path))
    assert "layers is 1, but the backbone has 0" in refusal(weights_of_last, toy, 1)


def test_a_layer_that_is_not_there_is_named_with_the_nearest(lite):
    assert "no layer or tensor 'blok14'; the nearest are block14" in refusal(weights_after, load_graph(lite), "blok14")


@pytest.mark.parametrize("layer", ["pool", "Relu6_32", "MatMul", "probabilities"])
def test_a_layer_with_nothing_to_train_behind_it_is_the_users_mistake(lite, layer):
    assert f"There are no weights between '{layer}' and the bottleneck" in refusal(
        weights_after, load_graph(lite), layer
    )


def test_several_backbones_side_by_side_are_refused(tmp_path, toy_backbone):
    graph_def = load_graph(prepare([toy_backbone, {**toy_backbone, "scale": [0, 1]}], tmp_path))
    assert "takes a single backbone" in refusal(weights_of_last, graph_def, 1)
    assert "takes a single backbone" in refusal(weights_after, graph_def, "features")
