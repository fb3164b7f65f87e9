import numpy as np
import pytest
import tensorflow as tf
from toys import quiet_progress

from components.backbones.prepare import import_graph, load_graph, prepare_backbone
from components.backbones.settings import Augment
from components.backbones.spec import Spec
from components.backbones.views import WHOLE, list_views
from components.export.explain import BY_GRADIENT, EXACT, describe_evidence, explaining_model_fn, spread_cells
from components.features import BOTTLENECK, CLASS, IMAGE_BYTES, VIEWS
from components.train.model import L2, STANDARDIZE, TRAINING_SCOPE, WHITEN, HeadParams
from components.train.normalization import scale_vectors
from components.train.settings import SIGMOID, Architecture, HiddenLayer

v1 = tf.compat.v1
LABELS = ["cat", "d og", "\u00e9"]


def encode_colours():
    """Return PNGs of noise with a bright part in another colour each."""
    images = np.random.default_rng(0).integers(0, 60, (5, 40, 50, 3), np.uint8)
    for image, colour in zip(images, np.eye(5, 3, dtype=np.uint8) * 190, strict=True):
        image[5:25, 10:30] += colour
    return [tf.io.encode_png(image).numpy() for image in images]


IMAGES = encode_colours()


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A frozen graph of a convolution with maps 4x4x6 and 8x8x6, and of what follows them."""
    path = tmp_path_factory.mktemp("network") / "network.pb"
    kernel = np.random.default_rng(0).normal(0, 1, (3, 3, 3, 6)).astype(np.float32)
    with tf.Graph().as_default() as graph:
        pixels = v1.placeholder(tf.float32, [None, 32, 32, 3], "input")
        for stride in (4, 8):
            maps = tf.nn.relu(tf.nn.conv2d(pixels, kernel, stride, "SAME") + 0.2, name=f"maps{32 // stride}")
            mean = tf.nn.avg_pool2d(maps, 32 // stride, 1, "VALID", name=f"pooled{32 // stride}")
            tf.nn.relu(tf.squeeze(mean, [1, 2], name=f"vector{32 // stride}") - 0.1, name=f"beyond{32 // stride}")
    path.write_bytes(graph.as_graph_def().SerializeToString())
    return str(path)


def make_spec(network, layer="maps4", pooling=None):
    return Spec(frozen_graph=network, input="input", layer=layer, pooling=pooling)


@pytest.fixture(scope="module")
def explain(network, tmp_path_factory):
    """Return a function that explains IMAGES by a head of random weights over a backbone.

    It returns evidence for names of classes, logits, the head's variables, and the bottleneck as the head takes it.
    """

    def compute(specs, architecture, names, views=WHOLE, images=IMAGES, **given):
        folder = tmp_path_factory.mktemp("backbones")
        labels_file = folder / "labels.txt"
        classes = 2 if architecture.output == SIGMOID else 3
        labels_file.write_text("".join(f"{label}\n" for label in LABELS[:classes]))
        backbone = prepare_backbone(specs, folder, quiet_progress())
        with tf.Graph().as_default():
            image_bytes, wanted = v1.placeholder(tf.string, [None]), v1.placeholder(tf.string, [None])
            inputs = {IMAGE_BYTES: image_bytes, VIEWS: tf.constant(views)}
            graph_def = load_graph(folder / backbone.id)
            (vectors,) = tf.import_graph_def(graph_def, inputs, [f"{BOTTLENECK}:0"], name="backbone")
            if len(views) > 1:
                of_images = tf.reshape(vectors, [-1, len(views), backbone.dim])
                vectors = tf.reduce_mean(tf.nn.l2_normalize(of_images, -1), 1)
            vectors = tf.ensure_shape(vectors, [None, backbone.dim])
            params = {"head": HeadParams(classes, str(labels_file), architecture)}
            inputs = {BOTTLENECK: vectors, CLASS: wanted}
            spec = explaining_model_fn(views, inputs, None, tf.estimator.ModeKeys.PREDICT, params)
            random = np.random.default_rng(1)
            values = {
                variable.op.name: random.normal(0, 0.2, variable.shape).astype(np.float32)
                for variable in v1.global_variables()
            } | {f"{TRAINING_SCOPE}/{name}": value for name, value in given.items()}
            with v1.Session() as session:
                session.run(v1.tables_initializer())
                for variable in v1.global_variables():
                    variable.load(values[variable.op.name], session)
                outputs = spec.export_outputs["explain"].outputs
                fetched = [outputs, f"{TRAINING_SCOPE}/logits:0", vectors]
                outputs, logits, vectors = session.run(fetched, {image_bytes: images, wanted: names})
        return outputs, logits, values, vectors

    return compute


def bias_of(values, scaling):
    """Return the logits of a bottleneck that adds nothing: the biases, and the shift of a standardization."""
    bias = values[f"{TRAINING_SCOPE}/biases"]
    if scaling == STANDARDIZE:
        shift = values[f"{TRAINING_SCOPE}/mean"] * values[f"{TRAINING_SCOPE}/scale"]
        bias = bias - shift @ values[f"{TRAINING_SCOPE}/weights"]
    return bias


@pytest.mark.parametrize("scaling", ["none", L2, STANDARDIZE, WHITEN])
@pytest.mark.parametrize("pooling", ["avg", "gem", "max", "flatten"])
def test_the_mean_over_places_and_the_bias_are_the_logit(explain, network, scaling, pooling):
    names = ["cat", "d og", "\u00e9", "cat", "\u00e9"]
    specs = (make_spec(network, pooling=pooling),)
    outputs, logits, values, vectors = explain(specs, Architecture(normalize=scaling, output="softmax"), names)
    index = [LABELS.index(name) for name in names]
    expected = logits[np.arange(5), index] - bias_of(values, scaling)[index]
    assert outputs["evidence"].shape == (5, 4, 4) and outputs["evidence"].dtype == np.float32
    assert np.ptp(outputs["evidence"], axis=(1, 2)).min() > 2e-3
    np.testing.assert_allclose(outputs["evidence"].mean((1, 2)), expected, atol=1e-4)
    # The head by hand.
    scaled = scale_vectors(vectors, scaling, values) @ values[f"{TRAINING_SCOPE}/weights"]
    np.testing.assert_allclose(logits, scaled + values[f"{TRAINING_SCOPE}/biases"], atol=1e-4)


@pytest.mark.parametrize(
    "layers", [["maps4"], ["pooled8"], ["vector8"], ["maps4", "vector8"]], ids=lambda layers: "+".join(layers)
)
@pytest.mark.parametrize("augment", [Augment(), Augment(flip=True), Augment(flip=True, crops=4, crop_side=0.7)])
def test_it_is_exact_for_lists_of_backbones_and_averaged_views(explain, network, layers, augment):
    specs = tuple(make_spec(network, layer) for layer in layers)
    architecture = Architecture(normalize=WHITEN, output="softmax")
    outputs, logits, values, _ = explain(specs, architecture, ["cat"] * 5, list_views(augment))
    side = max(int(layer[-1]) for layer in layers)
    assert outputs["evidence"].shape == (5, side, side)
    np.testing.assert_allclose(outputs["evidence"].mean((1, 2)), logits[:, 0] - bias_of(values, WHITEN)[0], atol=1e-4)


@pytest.mark.parametrize("augment", [Augment(), Augment(flip=True)])
def test_it_is_exact_for_the_joined_layers_of_an_embedded_backbone(explain, augment):
    specs, architecture = (Spec(name="efficientnet_lite0"),), Architecture(normalize=WHITEN, output="softmax")
    outputs, logits, values, _ = explain(specs, architecture, ["cat"] * 5, list_views(augment))
    assert outputs["evidence"].shape == (5, 14, 14)
    np.testing.assert_allclose(outputs["evidence"].mean((1, 2)), logits[:, 0] - bias_of(values, WHITEN)[0], atol=1e-4)


def test_evidence_is_the_maps_times_the_weights(explain, network, tmp_path):
    spec = make_spec(network)
    outputs, _, values, _ = explain((spec,), Architecture(normalize="none", output="softmax"), ["d og"] * 5)
    backbone = prepare_backbone((spec,), tmp_path, quiet_progress())
    with v1.Session(graph=import_graph(tmp_path / backbone.id)) as session:
        maps = session.run("network/maps4:0", {f"{IMAGE_BYTES}:0": IMAGES})
    expected = maps @ values[f"{TRAINING_SCOPE}/weights"][:, 1]
    np.testing.assert_allclose(outputs["evidence"], expected, atol=1e-5)


def test_a_mirrored_view_alone_gives_the_map_of_the_image_that_it_shows(explain, network):
    architecture = Architecture(normalize=L2, output="softmax")
    mirrored = np.array([[0, 0, 1, 1, 1]] * 2, np.float32)  # twice, as one view is not averaged
    outputs, *_ = explain((make_spec(network),), architecture, ["cat"], mirrored)
    flipped = [tf.io.encode_png(tf.io.decode_png(image)[:, ::-1]).numpy() for image in IMAGES]
    plain, *_ = explain((make_spec(network),), architecture, ["cat"], np.repeat(WHOLE, 2, 0), flipped)
    np.testing.assert_allclose(outputs["evidence"], plain["evidence"][:, :, ::-1], atol=1e-5)


def test_without_a_name_the_evidence_is_that_of_the_predicted_class(explain, network):
    specs, architecture = (make_spec(network),), Architecture(output="softmax", normalize=L2)
    _, logits, values, _ = explain(specs, architecture, ["cat"])
    biases = values[f"{TRAINING_SCOPE}/biases"] - np.median(logits, 0)  # so that the answers differ
    plain, logits, *_ = explain(specs, architecture, [""], biases=biases)
    predicted = [LABELS[index] for index in logits.argmax(1)]
    assert [label.decode() for label in plain["label"]] == predicted and len({*predicted}) > 1
    named, *_ = explain(specs, architecture, predicted, biases=biases)
    np.testing.assert_array_equal(plain["evidence"], named["evidence"])
    np.testing.assert_array_equal(plain["index"], logits.argmax(1))


def test_a_single_output_speaks_for_one_class_and_against_the_other(explain, network):
    specs, architecture = (make_spec(network),), Architecture(output="sigmoid", normalize=L2)
    outputs, logits, values, _ = explain(specs, architecture, ["d og"])
    np.testing.assert_allclose(
        outputs["evidence"].mean((1, 2)), logits[:, 1] - values[f"{TRAINING_SCOPE}/biases"], atol=1e-4
    )
    against, *_ = explain(specs, architecture, ["cat"])
    np.testing.assert_array_equal(against["evidence"], -outputs["evidence"])


@pytest.mark.parametrize(
    ("names", "words"),
    [(["cat", "bird", "", "", ""], "no class of this name.*bird"), (["cat", ""], "shape")],
    ids=["unknown", "too few"],
)
def test_a_name_of_no_class_and_a_wrong_number_of_names_are_errors(explain, network, names, words):
    with pytest.raises(tf.errors.InvalidArgumentError, match=words):
        explain((make_spec(network),), Architecture(output="softmax", normalize="none"), names)


def test_hidden_layers_give_the_gradient_at_the_maps_times_the_maps(explain, network):
    architecture = Architecture(hidden=(HiddenLayer(8, "tanh"),), normalize="none", output="softmax")
    outputs, _, values, vectors = explain((make_spec(network),), architecture, ["cat"])
    scope = f"{TRAINING_SCOPE}/hidden0"
    after = np.tanh(vectors @ values[f"{scope}/weights"] + values[f"{scope}/biases"])
    gradient = ((1 - after**2) * values[f"{TRAINING_SCOPE}/weights"][:, 0]) @ values[f"{scope}/weights"].T
    np.testing.assert_allclose(outputs["evidence"].mean((1, 2)), (gradient * vectors).sum(1), atol=1e-4)


@pytest.mark.parametrize(
    ("layer", "hidden", "signature", "words"),
    [
        ("maps4", (), True, EXACT),
        ("vector4", (HiddenLayer(3),), True, BY_GRADIENT),
        ("beyond4", (), False, "its bottleneck comes from Relu 'network/beyond4', not from a mean of maps."),
    ],
)
def test_what_is_known_of_the_evidence_is_told(network, tmp_path, layer, hidden, signature, words):
    backbone = prepare_backbone((make_spec(network, layer),), tmp_path, quiet_progress())
    known, note = describe_evidence(load_graph(tmp_path / backbone.id), Architecture(hidden=hidden))
    assert known is signature and words in note and note.endswith(".")


def test_ready_made_bottlenecks_have_no_evidence():
    known, note = describe_evidence(None, Architecture())
    assert not known and "ready-made" in note


@pytest.mark.parametrize(("start", "end"), [(0, 1), (0, 0.8), (0.2, 1), (0.1, 0.9)])
@pytest.mark.parametrize(("cells", "canvas"), [(7, 7), (4, 9), (9, 4), (1, 5)])
def test_cells_keep_their_sum_and_their_place(start, end, cells, canvas):
    matrix = spread_cells(start, end, cells, canvas)
    values = np.random.default_rng(0).normal(size=cells)
    assert (matrix @ values).mean() == pytest.approx(values.mean(), abs=1e-6)
    # By counting: a million points of the part, each in its cell and in that of the canvas.
    points = (np.arange(1_000_000) + 0.5) / 1_000_000
    at = np.minimum((points * cells).astype(int), cells - 1)
    place = ((start + points * (end - start)) * canvas).astype(int)
    counted = np.zeros((canvas, cells))
    np.add.at(counted, (place, at), canvas / len(points))
    np.testing.assert_allclose(matrix, counted, atol=1e-4)


def test_the_whole_at_its_own_size_stays_as_it_is():
    np.testing.assert_allclose(spread_cells(0, 1, 7, 7), np.eye(7), atol=1e-6)
