"""Exports to ONNX and OpenVINO, and the client beside each export, as a stranger would run it."""

import functools
import json
import shutil
import subprocess
import sys
import tarfile
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import onnx
import onnxruntime
import pytest
import tensorflow as tf
from toys import refusal

from components.backbones.openvino_network import openvino
from components.export.convert import convert_export
from components.export.formats import FORMATS, OPSET
from components.export.versions import list_versions
from components.predict.predict import load_export
from components.run_dir import RunDir
from pipeline.cli import main
from pipeline.commands import load_extra

# A stranger has none of these; the first argument is the client.
ALONE = """
import runpy, sys
for name in ("tensorflow", "components", "pipeline", "pandas", "scipy"):
    sys.modules[name] = None
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
THRESHOLD = 0.9


@pytest.fixture(scope="module")
def run(toy_run, tmp_path_factory):
    """A copy of the toy run whose model abstains, converted to each format."""
    run = RunDir(tmp_path_factory.mktemp("formats") / "run")
    shutil.copytree(toy_run.root, run.root)
    card = list_versions(run.exports)[-1] / "model_card.json"
    values = {"threshold": THRESHOLD, "wanted": 0.9, "images": 20, "answered": 10, "precision": 1, "low": 0, "high": 1}
    card.write_text(json.dumps({**json.loads(card.read_text()), "abstention": values}))
    for name in FORMATS:
        assert main(["export", str(run.root), "--to", name, "--quiet"]) == 0
    return run


@pytest.fixture(scope="module")
def images(toy_config):
    """Images of every format, as absolute paths."""
    paths = sorted(path for path in Path(toy_config["data"]["path"]).rglob("*.*") if path.name != "broken.jpg")
    assert {path.suffix for path in paths} == {".jpg", ".png", ".gif", ".bmp"}
    return paths[::4] + paths[1::4]


def folder_of(run, name):
    return run.root / name / list_versions(run.exports)[-1].name


def serve(run, pixels):
    """Return the answers of the SavedModel to PNGs of pixels uint8[N, 32, 32, 3]."""
    encoded = [tf.io.encode_png(image).numpy() for image in pixels]
    answers = load_export(list_versions(run.exports)[-1]).compute(encoded)
    return np.stack([answer.probabilities for answer in answers])


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3)).astype(np.uint8)


def test_the_onnx_model_gives_the_probabilities_of_the_saved_model_and_has_labels_inside(run, pixels):
    path = folder_of(run, "onnx") / "model.onnx"
    session = onnxruntime.InferenceSession(path)
    (source,), (output,) = session.get_inputs(), session.get_outputs()
    assert (source.type, source.shape[1:]) == ("tensor(float)", [32, 32, 3])
    found = session.run([output.name], {source.name: pixels.astype(np.float32)})[0]
    np.testing.assert_allclose(found, serve(run, pixels), atol=1e-5)
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["labels"]) == ["cyan", "magenta", "yellow"]
    assert float(metadata["abstain_below"]) == THRESHOLD
    model = onnx.load(path)
    onnx.checker.check_model(model)
    assert [entry.version for entry in model.opset_import if entry.domain == ""] == [OPSET]


def test_the_openvino_model_gives_the_probabilities_of_the_saved_model_and_has_labels_inside(run, pixels):
    model = openvino.Core().read_model(folder_of(run, "openvino") / "model.xml")
    found = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(pixels.astype(np.float32))
    np.testing.assert_allclose(found[0], serve(run, pixels), atol=1e-5)
    assert json.loads(model.get_rt_info("labels").astype(str)) == ["cyan", "magenta", "yellow"]


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_each_format_is_compared_with_the_saved_model_on_all_test_images(run, name):
    comparison = json.loads((folder_of(run, name) / "comparison.json").read_text())
    tflite = json.loads((folder_of(run, "tflite") / "comparison.json").read_text())
    assert {key: comparison[key] for key in ("export", "images", "accuracy")} == {
        key: tflite[key] for key in ("export", "images", "accuracy")
    }
    (result,) = comparison["models"].values()
    assert (result["agreement"], result["accuracy"]) == (1, comparison["accuracy"])
    assert result["bytes"] == sum(file.stat().st_size for file in folder_of(run, name).glob("model.*"))


@pytest.mark.parametrize("name", FORMATS)
def test_the_client_alone_gives_the_labels_of_topgraft_predict(run, images, tmp_path, name):
    client = shutil.copytree(folder_of(run, name), tmp_path / "elsewhere") / "classify.py"
    command = [sys.executable, "-P", "-c", ALONE, str(client), *map(str, images)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env={})
    assert result.returncode == 0, result.stderr
    rows = [line.split("\t") for line in result.stdout.splitlines()]
    classifier = load_export(list_versions(run.exports)[-1])
    expected = classifier.compute([path.read_bytes() for path in images])
    for (path, label, probability, *note), image, answer in zip(rows, images, expected, strict=True):
        assert (path, label) == (str(image), classifier.labels[answer.probabilities.argmax()])
        assert float(probability) == pytest.approx(answer.probabilities.max(), abs=0.02)
        assert note == (["abstained"] if float(probability) < THRESHOLD else [])


def test_the_client_of_a_network_with_the_old_resizing_resizes_as_it(run, tmp_path, progress, monkeypatch):
    assert "OFFSET = 0.5 " in (folder_of(run, "onnx") / "classify.py").read_text()
    run = RunDir(shutil.copytree(run.root, tmp_path / "run"))
    monkeypatch.setattr("components.export.convert._resizes_as_before", lambda served: True)
    folder, _ = convert_export(list_versions(run.exports)[-1], run, "onnx", progress)
    source = (folder / "classify.py").read_text()
    assert "OFFSET = 0.0 " in source and "OFFSET = 0.0;" in (folder / "classify.html").read_text()
    # The function in the file, without the lines below that load the model.
    scope = {"__file__": str(folder / "classify.py"), "__name__": "client"}
    exec(source.partition("classify, side = load_model()")[0], scope)
    image = np.random.default_rng(1).integers(0, 256, (50, 70, 3)).astype(np.uint8)
    (tmp_path / "a.png").write_bytes(tf.io.encode_png(image).numpy())
    for offset, legacy in ((0.0, True), (0.5, False)):
        scope["OFFSET"] = offset
        resize = tf.compat.v1.image.resize_bilinear if legacy else tf.image.resize
        np.testing.assert_allclose(
            scope["read_pixels"](tmp_path / "a.png", 32), resize(image[None].astype(np.float32), [32, 32]), atol=0.01
        )


def test_the_client_refuses_an_image_that_it_would_misread(run, tmp_path):
    deep = np.random.default_rng(0).integers(0, 65536, (40, 40, 1)).astype(np.uint16)
    (tmp_path / "deep.png").write_bytes(tf.io.encode_png(deep).numpy())
    command = [sys.executable, str(folder_of(run, "onnx") / "classify.py"), str(tmp_path / "deep.png")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1 and "more than 8 bits per channel" in result.stderr and not result.stdout


def test_a_model_that_a_format_cannot_express_is_refused_and_nothing_is_written(
    toy_run, tmp_path, progress, monkeypatch
):
    run = RunDir(shutil.copytree(toy_run.root, tmp_path / "run"))

    def fail(*arguments, **settings):
        raise ValueError("no such operation: Strange.\nmore lines")

    monkeypatch.setattr("tf2onnx.convert.from_graph_def", fail)
    words = refusal(convert_export, list_versions(run.exports)[-1], run, "onnx", progress)
    assert "onnx cannot express this model (no such operation: Strange)" in words
    assert not list(run.root.glob("onnx*/*"))


def test_a_missing_package_is_named_with_its_extra():
    assert "pip install 'topgraft[onnx]'" in refusal(load_extra, "no_such_package", "onnx")


@pytest.fixture(scope="module")
def runtime(tmp_path_factory):
    """The folder of ONNX Runtime for browsers, from npm."""
    folder = tmp_path_factory.mktemp("npm")
    if not shutil.which("npm"):
        pytest.skip("needs npm in PATH")
    try:
        subprocess.run(
            ["npm", "pack", "onnxruntime-web@1.30.0"], cwd=folder, check=True, capture_output=True, timeout=300
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        pytest.skip("npm could not fetch onnxruntime-web")
    with tarfile.open(next(folder.glob("*.tgz"))) as archive:
        archive.extractall(folder, filter="data")
    return folder / "package" / "dist"


def test_the_page_alone_gives_the_labels_of_topgraft_predict_and_asks_no_other_host(
    run, images, tmp_path, browser, runtime
):
    folder = shutil.copytree(folder_of(run, "onnx"), tmp_path / "elsewhere")
    (folder / "ort").symlink_to(runtime)
    handler = functools.partial(QuietHandler, directory=str(folder))
    asked = []
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, browser.new_page() as page:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"http://127.0.0.1:{server.server_address[1]}/classify.html")
        page.wait_for_selector("body[data-ready]")
        page.set_input_files("input", images)
        page.wait_for_function("count => answers.textContent.split('\\n').length > count", arg=len(images))
        lines = page.inner_text("#answers").splitlines()
        server.shutdown()
    assert all(urlsplit(url).hostname == "127.0.0.1" for url in asked)
    classifier = load_export(list_versions(run.exports)[-1])
    expected = classifier.compute([path.read_bytes() for path in images])
    for line, image, answer in zip(lines, images, expected, strict=True):
        name, label, probability, *note = line.split("\t")
        assert (name, label) == (image.name, classifier.labels[answer.probabilities.argmax()])
        assert float(probability) == pytest.approx(answer.probabilities.max(), abs=0.02)
        assert note == (["abstained"] if float(probability) < THRESHOLD else [])


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass
