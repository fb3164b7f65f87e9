import re
import tarfile

import numpy as np
import pytest
import tensorflow as tf
from toys import check_bottlenecks_agree, paint_images, quiet_progress, refusal, write_config

from components.backbones import frozen_graphs
from components.backbones import spec as catalog
from components.backbones.network import freeze
from components.backbones.prepare import BackboneSession, prepare_backbone
from components.backbones.spec import parse_backbone
from components.errors import UserError
from components.run_dir import RunDir
from components.storage.downloads import cache_folder
from pipeline.cli import main

CLASSES = 7  # two more than the maps name, as in the original
LABEL_MAP = """entry {
  target_class: 1
  target_class_string: "n01"
}
entry {
  target_class: 4
  target_class_string: "n04"
}
"""
SYNSETS = "n01\tgiant panda, panda\nn04\ttriceratops\nn99\tother\n"


def build_2015_graph() -> tf.Graph:
    """A toy with the node names and the one-image shapes of classify_image_graph_def.pb."""
    random = np.random.default_rng(0)
    v1 = tf.compat.v1
    with tf.Graph().as_default() as graph:
        contents = v1.placeholder(tf.string, [], "DecodeJpeg/contents")
        decoded = tf.cast(tf.image.decode_jpeg(contents, channels=3, name="DecodeJpeg"), tf.float32, name="Cast")
        resized = v1.image.resize_bilinear(tf.expand_dims(decoded, 0), [299, 299], name="ResizeBilinear")
        scaled = tf.multiply(tf.subtract(resized, 128.0, name="Sub"), 1 / 128, name="Mul")
        maps = tf.nn.relu(tf.nn.conv2d(scaled, random.normal(0, 0.3, (9, 9, 3, 8)).astype(np.float32), 32, "VALID"))
        pooled = tf.nn.avg_pool2d(maps, maps.shape[1:3], 1, "VALID", name="pool_3")
        flat = tf.reshape(pooled, [1, 8], name="pool_3/_reshape")
        weights = random.normal(0, 1, (8, CLASSES)).astype(np.float32)
        tf.nn.softmax(tf.matmul(flat, weights, name="softmax/logits"), name="softmax")
    return graph


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """The toy as the archive that the name inception_v3_2015 stands for, put into the cache by hand."""
    folder = tmp_path_factory.mktemp("inception")
    graph = build_2015_graph()
    (folder / "classify_image_graph_def.pb").write_bytes(graph.as_graph_def().SerializeToString())
    (folder / "imagenet_2012_challenge_label_map_proto.pbtxt").write_text("# -*- protobuffer -*-\n" + LABEL_MAP)
    (folder / "imagenet_synset_to_human_label_map.txt").write_text(SYNSETS)
    path = cache_folder() / "downloads" / catalog.FROZEN["inception_v3_2015"].remote.file
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        for file in folder.iterdir():
            tar.add(file, file.name)
    return graph


@pytest.fixture
def jpegs(tmp_path):
    return [file.read_bytes() for file in sorted(paint_images(tmp_path / "jpegs", 9).rglob("*.jpg"))]


def test_the_batched_form_equals_the_original_one_image_at_a_time(archive, jpegs, tmp_path):
    backbone = prepare_backbone(parse_backbone("inception_v3_2015"), tmp_path, quiet_progress())
    assert (backbone.dim, backbone.size) == (8, 299)
    session = BackboneSession(tmp_path / backbone.id)
    with tf.compat.v1.Session(graph=archive) as original:
        for name, tensor in (("bottleneck", "pool_3/_reshape:0"), ("probabilities", "softmax:0")):
            one_by_one = [original.run(tensor, {"DecodeJpeg/contents:0": jpeg})[0] for jpeg in jpegs]
            assert len({tuple(vector) for vector in one_by_one}) == len(jpegs) == 9
            np.testing.assert_allclose(session.run(name, "image_bytes", jpegs), one_by_one, atol=1e-5)


def test_names_come_from_the_two_maps_of_the_archive(archive, tmp_path):
    backbone = prepare_backbone(parse_backbone("inception_v3_2015"), tmp_path, quiet_progress())
    assert backbone.labels == ("", "giant panda, panda", "", "", "triceratops", "", "")


def test_classify_prints_probability_and_name(archive, tmp_path, capsys):
    image = next(paint_images(tmp_path / "images", 3).rglob("*.jpg"))
    assert main(["classify", str(image), "--backbone", "inception_v3_2015", "--top-k", "7"]) == 0
    path, *lines = capsys.readouterr().out.splitlines()
    assert path == str(image)
    assert len(lines) == 7
    probabilities = [float(line.split()[0]) for line in lines]
    assert probabilities == sorted(probabilities, reverse=True)
    assert sum(probabilities) == pytest.approx(1, abs=1e-3)
    assert any(line.endswith(" giant panda") for line in lines)


def test_the_whole_pipeline_runs_on_it(archive, toy_config, tmp_path):
    images = paint_images(tmp_path / "images", per_class=12)
    values = {**toy_config, "output_dir": str(tmp_path / "run"), "backbone": "inception_v3_2015"}
    values |= {"data": {"path": str(images)}, "evaluate": {"thresholds": {"accuracy": 0.2}}}
    assert main(["run", str(write_config(tmp_path / "c.yaml", **values))]) == 0
    check_bottlenecks_agree(RunDir(tmp_path / "run"), images)


def test_without_a_network_the_url_and_the_place_for_the_file_are_named(tmp_path, monkeypatch, capsys):
    from components.storage import downloads

    archive = catalog.FROZEN["inception_v4"].path
    monkeypatch.setattr(catalog, "MODELS_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(downloads, "FIRST_DELAY", 0)
    assert main(["backbones", "fetch", "inception_v4"]) == 2
    error = capsys.readouterr().err
    assert f"http://127.0.0.1:9/{archive}" in error
    assert str(cache_folder() / "downloads" / archive) in error
    assert len(error.splitlines()) == 1


def test_numbers_without_a_class_have_no_name():
    assert frozen_graphs.parse_label_maps(LABEL_MAP, SYNSETS)[2] == ""
    assert frozen_graphs.parse_label_maps("", "") == ()


def test_an_archive_without_a_graph_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("TOPGRAFT_CACHE", str(tmp_path / "cache"))
    path = cache_folder() / "downloads" / catalog.FROZEN["inception_resnet_v2"].remote.file
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        tar.add(__file__, "readme.txt")
    with pytest.raises(UserError, match="has no .pb file"):
        prepare_backbone(parse_backbone("inception_resnet_v2"), tmp_path, quiet_progress())


def write_graph(path, *operations, library=()):
    """Write a GraphDef of a placeholder and nodes of these operations, those of library inside a function."""
    graph = tf.compat.v1.GraphDef()
    graph.node.add(name="input", op="Placeholder").attr["dtype"].type = tf.float32.as_datatype_enum
    for number, operation in enumerate(operations):
        graph.node.add(name=f"node{number}", op=operation)
    function = graph.library.function.add()
    function.signature.name = "inside"
    for number, operation in enumerate(library):
        function.node_def.add(name=f"node{number}", op=operation)
    path.write_bytes(graph.SerializeToString())
    return path


# What TensorFlow 2.15 has to touch files, the network, Python or the process itself.
ACTING = re.findall(
    r"\w+",
    """
    ReadFile WriteFile MatchingFiles ImmutableConst InitializeTableFromTextFile InitializeTableFromTextFileV2
    RecordInput LoadAndRemapMatrix GenerateVocabRemapping DecodeProtoV2 EncodeProto SaveV2 RestoreV2
    MergeV2Checkpoints PrintV2 Print TextLineDataset TFRecordDataset OneShotIterator WholeFileReaderV2 LMDBReader
    CreateSummaryFileWriter DebugIdentity DebugIdentityV2 DebugNanCount DebugNumericSummary PyFunc PyFuncStateless
    EagerPyFunc RpcClient RpcCall _Send _HostRecv CollectiveReduceV2 DataServiceDatasetV4 WorkerHeartbeat Abort
    XlaCustomCall RemoteCall FileSystemSetConfiguration
    """,
)


@pytest.mark.parametrize("operation", [*ACTING, "NoSuchOperation"])
def test_a_graph_that_does_more_than_compute_is_refused_wherever_it_does(tmp_path, operation):
    assert f"'{operation}'" in refusal(frozen_graphs.read_graph_def, write_graph(tmp_path / "a.pb", operation))
    inside = write_graph(tmp_path / "b.pb", "StatefulPartitionedCall", library=[operation])
    assert f"'{operation}'" in refusal(frozen_graphs.read_graph_def, inside)


def test_a_function_named_as_an_operation_does_not_hide_it(tmp_path):
    path = write_graph(tmp_path / "a.pb", "inside", "Conv2D")
    assert len(frozen_graphs.read_graph_def(path).node) == 3
    graph = tf.compat.v1.GraphDef.FromString(path.read_bytes())
    graph.library.function[0].signature.name = "WriteFile"
    graph.node[1].op = "WriteFile"
    path.write_bytes(graph.SerializeToString())
    assert "'WriteFile'" in refusal(frozen_graphs.read_graph_def, path)


@pytest.mark.parametrize("application", [tf.keras.applications.MobileNetV2, tf.keras.applications.ConvNeXtTiny])
def test_frozen_networks_of_keras_only_compute(tmp_path, application):
    network = application(weights=None, input_shape=(64, 64, 3), classes=3)
    graph_def, _, _ = freeze(network, 64)
    (tmp_path / "a.pb").write_bytes(graph_def.SerializeToString())
    assert frozen_graphs.read_graph_def(tmp_path / "a.pb") == graph_def
