import csv
import io
import json
import shutil
import zipfile

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tensorflow.core.protobuf import saved_model_pb2
from toys import refusal, write_config

from components.export.convert import convert_export
from components.export.versions import list_versions
from components.run_dir import RunDir
from components.shards.records import IMAGE_SPEC, read_batches, shard_files
from components.storage.ownership import MARK
from pipeline.cli import main

LABELS = "cyan\nmagenta\nyellow\n"


@pytest.fixture(scope="module")
def run(toy_run, tmp_path_factory):
    root = tmp_path_factory.mktemp("tflite") / "run"
    shutil.copytree(toy_run.root, root)
    return RunDir(root)


@pytest.fixture(scope="module")
def converted(run):
    assert main(["export", str(run.root), "--to", "tflite"]) == 0
    return run.tflite / list_versions(run.exports)[-1].name


def convert(run, progress):
    return convert_export(list_versions(run.exports)[-1], run, "tflite", progress)


def read_test_images(run):
    shards = json.loads((run.stages / "ingest.json").read_text())["outcome"]["shards"]
    batches = list(read_batches(shard_files(run.examples, "test", shards), IMAGE_SPEC))
    return [np.concatenate([batch[key] for batch in batches]) for key in ("image/encoded", "image/class/label")]


def serve(run, encoded):
    model = tf.saved_model.load(str(list_versions(run.exports)[-1]))
    return model.signatures["serving_default"](image_bytes=tf.constant(encoded))["probabilities"].numpy()


def classify(path, encoded, size=32):
    """Decode, resize and classify all images at once, as a user of the file would."""
    pixels = [
        tf.image.resize(tf.io.decode_image(one, channels=3, expand_animations=False), [size, size]) for one in encoded
    ]
    interpreter = tf.lite.Interpreter(str(path))
    (source,), (output,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert source["dtype"] == output["dtype"] == np.float32
    assert source["shape_signature"].tolist() == [-1, size, size, 3]
    interpreter.resize_tensor_input(source["index"], [len(pixels), size, size, 3])
    interpreter.allocate_tensors()
    interpreter.set_tensor(source["index"], np.stack(pixels))
    interpreter.invoke()
    return interpreter.get_tensor(output["index"])


def test_the_files_are_those_of_the_latest_export_with_its_labels_beside_and_inside(converted):
    names = {
        "labels.txt",
        "model_card.json",
        "comparison.json",
        "classify.py",
        "model_float.tflite",
        "model_int8.tflite",
    }
    assert {file.name for file in converted.iterdir()} == {*names, MARK}
    assert (converted / "labels.txt").read_text() == LABELS
    for name in ("model_float.tflite", "model_int8.tflite"):
        with zipfile.ZipFile(converted / name) as archive:
            assert archive.namelist() == ["labels.txt"] and archive.read("labels.txt").decode() == LABELS


def test_the_float_model_gives_the_probabilities_of_the_saved_model(run, converted):
    encoded, _ = read_test_images(run)
    np.testing.assert_allclose(classify(converted / "model_float.tflite", encoded), serve(run, encoded), atol=1e-5)


def test_a_model_tells_pixels_from_zero_to_255_apart(converted):
    answers = []
    for colour in ("cyan", "magenta", "yellow"):
        file = io.BytesIO()
        Image.new("RGB", (40, 20), colour).save(file, "PNG")
        answers.append(classify(converted / "model_int8.tflite", [file.getvalue()])[0])
    assert np.argmax(answers, 1).tolist() == [0, 1, 2]
    np.testing.assert_allclose(np.sum(answers, 1), 1, atol=1e-5)


def test_agreement_and_accuracy_are_those_of_the_files_on_all_test_images(run, converted):
    comparison = json.loads((converted / "comparison.json").read_text())
    encoded, labels = read_test_images(run)
    expected = serve(run, encoded).argmax(1)
    assert (comparison["export"], comparison["images"]) == (converted.name, len(labels))
    assert comparison["accuracy"] == pytest.approx((expected == labels).mean())
    with run.predictions.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert comparison["accuracy"] == pytest.approx(np.mean([row["label"] == row["actual"] for row in rows]))
    for name in ("float", "int8"):
        found = classify(converted / f"model_{name}.tflite", encoded).argmax(1)
        assert comparison["models"][name]["agreement"] == pytest.approx((found == expected).mean())
        assert comparison["models"][name]["accuracy"] == pytest.approx((found == labels).mean())
        assert comparison["models"][name]["bytes"] == (converted / f"model_{name}.tflite").stat().st_size
    assert comparison["models"]["float"]["agreement"] == 1


@pytest.mark.parametrize(
    "settings",
    [
        {"head": {"hidden": [{"units": 8, "activation": "tanh"}], "normalize": "standardize"}},
        {"head": {"normalize": "whiten"}},
        {"data.classes": 2},
        {"augment": {"flip": True, "average": True}},
        {"backbone": "twice"},
    ],
    ids=["hidden", "whiten", "sigmoid", "average", "two backbones"],
)
def test_heads_are_converted_and_what_has_no_single_image_input_is_refused(
    settings, toy_run, toy_config, toy_backbone, tmp_path, progress
):
    config = {**toy_config, "output_dir": str(tmp_path / "run")}
    stages = ["extract", "audit", "train", "export"]  # a conversion needs no more
    if "data.classes" in settings:
        stages = ["ingest", "validate", *stages]
        shutil.copytree(toy_config["data"]["path"], tmp_path / "images", ignore=shutil.ignore_patterns("yellow"))
        config["data"] = {"path": str(tmp_path / "images")}
    else:
        shutil.copytree(toy_run.root, tmp_path / "run")
        twice = {"backbone": [toy_backbone, {**toy_backbone, "scale": [0, 1]}]}
        config.update(twice if "backbone" in settings else settings)
    path = write_config(tmp_path / "toy.yaml", **config)
    for stage in stages:
        assert main(["run", str(path), "--only", stage]) == 0
    run = RunDir(tmp_path / "run")
    if "augment" in settings or "backbone" in settings:
        wanted = "augment.average=false" if "augment" in settings else "one backbone"
        assert wanted in refusal(convert, run, progress)
        assert not list(run.root.glob("tflite/*"))
        return
    folder, comparison = convert(run, progress)
    encoded, _ = read_test_images(run)
    np.testing.assert_allclose(classify(folder / "model_float.tflite", encoded), serve(run, encoded), atol=1e-5)
    assert comparison.models["float"].agreement == 1


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("damaged", "exports it anew"),
        ("outside of a run", "give the directory of a run"),
        ("of other classes", "has other classes than the run's test images"),
    ],
)
def test_an_export_that_cannot_be_compared_is_refused_and_nothing_is_written(
    damage, words, toy_run, tmp_path, progress
):
    run = RunDir(tmp_path / "run")
    shutil.copytree(toy_run.root, run.root)
    (export,) = list_versions(run.exports)
    if damage == "damaged":
        (export / "saved_model.pb").write_bytes(b"no model")
    elif damage == "outside of a run":
        shutil.rmtree(run.stages)
    else:
        card = json.loads((export / "model_card.json").read_text())
        (export / "model_card.json").write_text(json.dumps({**card, "classes": ["cyan", "red", "yellow"]}))
    assert words in refusal(convert, run, progress)
    assert not list(tmp_path.glob("run/tflite/*"))


def test_the_export_folder_is_converted_as_the_run(run, converted):
    before = (converted / "model_float.tflite").stat().st_mtime_ns
    assert main(["export", str(run.exports), "--to", "tflite", "--quiet"]) == 0
    assert (converted / "model_float.tflite").stat().st_mtime_ns > before


def test_ready_made_bottlenecks_without_their_network_are_refused(toy_run, tmp_path, progress):
    run = RunDir(tmp_path / "run")
    shutil.copytree(toy_run.root, run.root)
    path = list_versions(run.exports)[-1] / "saved_model.pb"
    content = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    signatures = content.meta_graphs[0].signature_def
    signatures["serving_default"].CopyFrom(signatures["bottleneck"])
    path.write_bytes(content.SerializeToString())
    (path.parent / "checksums.json").unlink()
    assert "takes bottlenecks only" in refusal(convert, run, progress)
