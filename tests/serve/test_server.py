import asyncio
import base64
import json
import re
import signal
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import requests
import tensorflow as tf
import uvicorn
from servers import start_server
from starlette.testclient import TestClient
from toys import encode_noise, refusal

from components.export.versions import list_versions
from components.predict.predict import load_export
from components.serve import server as serving
from components.serve.neighbours import Neighbour
from components.serve.server import make_app, make_config, serve
from components.serve.tf_serving import load_served
from pipeline.cli import main

ADDRESS = "http://127.0.0.1:8501"
PREDICT = "/v1/models/toy:predict"


@pytest.fixture(scope="module")
def served(toy_run):
    return load_served(toy_run.exports, None)


@pytest.fixture
def client(served):
    with TestClient(make_app(served, None, "127.0.0.1"), base_url=ADDRESS, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="module")
def expected(toy_run):
    """Images with what topgraft predict makes of each, alone."""
    classifier = load_export(list_versions(toy_run.exports)[-1])
    images = encode_noise(6)
    return [(image, classifier.compute([image])[0].probabilities) for image in images]


def instances(*images):
    return [{"image_bytes": {"b64": base64.b64encode(image).decode()}} for image in images]


def test_status_and_metadata_are_as_tensorflow_serving_words_them(client, served):
    status = {"error_code": "OK", "error_message": ""}
    available = {"model_version_status": [{"version": served.version, "state": "AVAILABLE", "status": status}]}
    assert client.get("/v1/models/toy").json() == available
    assert client.get(f"/v1/models/toy/versions/{served.version}").json() == available
    metadata = client.get("/v1/models/toy/metadata").json()
    assert metadata["model_spec"] == {"name": "toy", "signature_name": "", "version": served.version}
    signature = metadata["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature["inputs"]["image_bytes"]["dtype"] == "DT_STRING"
    explain = metadata["metadata"]["signature_def"]["signature_def"]["explain"]
    assert {*explain["inputs"]} == {"image_bytes", "class"} and "evidence" in explain["outputs"]
    assert set(signature["outputs"]) == {"index", "label", "probabilities"}
    assert signature["outputs"]["probabilities"]["tensor_shape"]["dim"][1]["size"] == "3"
    assert signature["method_name"] == "tensorflow/serving/predict"


@pytest.mark.parametrize("version", [False, True])
def test_rows_and_columns_equal_what_predict_answers(client, served, expected, version):
    path = f"/v1/models/toy/versions/{served.version}:predict" if version else PREDICT
    images = [image for image, _ in expected]
    rows = client.post(path, json={"instances": instances(*images)}).json()["predictions"]
    inputs = [instance["image_bytes"] for instance in instances(*images)]
    columns = client.post(path, json={"inputs": {"image_bytes": inputs}}).json()["outputs"]
    for row, (_, probabilities) in zip(rows, expected, strict=True):
        np.testing.assert_allclose(row["probabilities"], probabilities, atol=1e-6)
        assert row["index"] == int(np.argmax(probabilities))
        assert row["label"] == served.classifier.labels[row["index"]]
    assert columns == {name: [row[name] for row in rows] for name in ("index", "label", "probabilities")}


@pytest.mark.parametrize("columnar", [False, True])
def test_a_request_to_explain_gets_the_evidence_for_the_named_or_the_predicted_class(
    client, served, expected, columnar
):
    images, labels = [image for image, _ in expected], served.classifier.labels
    wanted = ["", *labels, "", labels[0]]
    by_row = [{**instance, "class": name} for instance, name in zip(instances(*images), wanted, strict=True)]
    by_column = {"image_bytes": [row["image_bytes"] for row in by_row], "class": wanted}
    body = {"inputs": by_column} if columnar else {"instances": by_row}
    answer = client.post(PREDICT, json={**body, "signature_name": "explain"}).json()
    found = answer["outputs"]["evidence"] if columnar else [row["evidence"] for row in answer["predictions"]]
    model = tf.saved_model.load(str(served.folder)).signatures["explain"]
    outputs = model(image_bytes=tf.constant(images), **{"class": tf.constant(wanted)})
    np.testing.assert_allclose(found, outputs["evidence"].numpy(), atol=1e-4)


def test_the_page_gets_the_top_classes_a_picture_and_the_nearest(served, expected):
    class Training:
        def find_nearest(self, encoded):
            return [Neighbour("odd\udcff/1.png", "odd\udcff", 0.5, "")] if encoded == expected[0][0] else []

    with TestClient(make_app(served, Training(), "127.0.0.1"), base_url=ADDRESS) as client:
        answer = client.post("/classify", content=expected[0][0]).json()
    order = np.argsort(-expected[0][1])
    assert [rank["label"] for rank in answer["ranked"]] == [served.classifier.labels[index] for index in order]
    np.testing.assert_allclose([rank["probability"] for rank in answer["ranked"]], expected[0][1][order], atol=1e-6)
    assert answer["abstained"] is False
    assert answer["evidence"]["width"] == 4 and len(base64.b64decode(*answer["evidence"]["maps"])) == 16
    assert answer["picture"].startswith("data:image/jpeg;base64,")
    assert answer["nearest"] == [{"path": "odd\\udcff/1.png", "label": "odd\\udcff", "cosine": 0.5, "picture": ""}]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "words"),
    [
        ("POST", PREDICT, b"{", 400, "not JSON"),
        (
            "POST",
            PREDICT,
            json.dumps({"instances": instances(b"a text")}).encode(),
            400,
            "The image cannot be read (not an",
        ),
        ("POST", PREDICT, json.dumps({"instances": instances(b"")}).encode(), 400, "The image cannot be read (empty"),
        ("POST", "/classify", b"\xff\xd8\xff no", 400, "cannot be read (corrupt"),
        ("POST", "/classify", b"", 400, "cannot be read (empty"),
        ("POST", PREDICT, json.dumps({"instances": [0] * 1001}).encode(), 413, "1,001 images"),
        ("POST", "/v1/models/other:predict", b"{}", 404, "ask for /v1/models/toy, version"),
        ("POST", "/v1/models/toy/versions/1:predict", b"{}", 404, "ask for /v1/models/toy, version"),
        ("GET", "/v1/models/other", None, 404, "ask for /v1/models/toy, version"),
        ("GET", "/v1/models/toy/labels/stable", None, 404, "nothing at this address"),
        ("GET", "/etc/passwd", None, 404, "nothing at this address"),
        ("GET", PREDICT, None, 405, "does not take this method"),
        ("POST", "/v1/models/toy", b"{}", 405, "does not take this method"),
        ("DELETE", "/", None, 405, "does not take this method"),
    ],
)
def test_what_cannot_be_answered_is_told_in_a_sentence(client, served, method, path, body, status, words):
    response = client.request(method, path, content=body)
    assert response.status_code == status
    (name,) = response.json()
    error = response.json()[name]
    assert name == "error"
    assert words in error
    assert error.endswith(".")
    assert str(served.folder) not in error and "/components/" not in error


def test_the_bad_image_of_a_request_is_named(client, expected):
    good = expected[0][0]
    half = good[: len(good) // 2]
    for bad, words in ((b"a text", "not an image"), (half, "corrupt")):
        response = client.post(PREDICT, json={"instances": instances(good, bad, good)})
        assert response.status_code == 400
        assert response.json()["error"].startswith(f"Image 1 cannot be read ({words}")


def test_a_body_beyond_the_limit_is_413_with_and_without_its_length(client, monkeypatch, expected):
    monkeypatch.setattr(serving, "MAX_BODY", 1000)
    body = b" " * 1001
    for content in (body, iter([body[:500], body[500:]]), iter([body] * 10)):
        response = client.post(PREDICT, content=content)
        assert response.status_code == 413
        assert "1,000 bytes" in response.json()["error"]
    assert client.post(PREDICT, content=b" " * 1000).status_code == 400


def test_only_so_many_requests_are_held_at_once_and_the_others_wait_for_their_turn(served, expected, monkeypatch):
    monkeypatch.setattr(serving, "MAX_HELD", 2)
    inspected, release, inspect = [], threading.Event(), serving.inspect_image
    monkeypatch.setattr(serving, "inspect_image", lambda *given: inspected.append(given) or inspect(*given))

    def compute(encoded):
        release.wait(30)
        return served.classifier.compute(encoded)

    held = served._replace(classifier=served.classifier._replace(compute=compute, explain=None))
    with TestClient(make_app(held, None, "127.0.0.1"), base_url=ADDRESS) as client, ThreadPoolExecutor(6) as clients:
        answers = clients.map(lambda pair: client.post("/classify", content=pair[0]).status_code, expected)
        time.sleep(0.5)
        assert len(inspected) == 2
        release.set()
        assert list(answers) == [200] * 6


def test_a_connection_too_many_is_refused_and_a_later_one_is_not(served, monkeypatch):
    monkeypatch.setattr(serving, "MAX_CONNECTIONS", 3)
    server = uvicorn.Server(make_config(served, None, "127.0.0.1"))
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as thread:
        running = thread.submit(server.run, sockets=[listener])
        address = listener.getsockname()
        url = f"http://127.0.0.1:{address[1]}/v1/models/toy"
        while not server.started:
            time.sleep(0.01)
        with socket.create_connection(address), socket.create_connection(address):
            assert requests.get(url).status_code == 503
        time.sleep(0.2)
        answer = requests.get(url)
        server.should_exit = True
        running.result()
    assert answer.status_code == 200
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_request_has_only_so_many_values_pixels_and_seconds(client, monkeypatch, expected):
    response = client.post(PREDICT, content=b'{"instances": [' + b"[]," * 5001 + b"[]]}")
    assert (response.status_code, "10,000 values" in response.json()["error"]) == (413, True)
    body = {"instances": instances(expected[0][0], expected[1][0])}
    monkeypatch.setattr(serving, "MAX_PIXELS", 2 * 50 * 40 - 1)
    response = client.post(PREDICT, json=body)
    assert (response.status_code, "3,999 pixels" in response.json()["error"]) == (413, True)
    monkeypatch.setattr(serving, "MAX_PIXELS", 2 * 50 * 40)
    assert client.post(PREDICT, json=body).status_code == 200

    async def stall(request):
        await asyncio.sleep(60)
        yield b""

    monkeypatch.setattr(serving, "BODY_SECONDS", 0.01)
    monkeypatch.setattr("starlette.requests.Request.stream", stall)
    response = client.post(PREDICT, json=body)
    assert (response.status_code, "0 seconds" in response.json()["error"]) == (408, True)


def test_sixteen_clients_share_batches_and_a_bad_image_fails_its_own_request_alone(served, expected):
    sizes = []

    def compute(encoded):
        sizes.append(len(encoded))
        return served.classifier.compute(encoded)

    counting = served._replace(classifier=served.classifier._replace(compute=compute))
    half = expected[0][0][: len(expected[0][0]) // 2]  # its header is whole: the model itself finds the damage
    wrong = []

    def ask(client, number):
        for turn in range(8):
            image, probabilities = expected[(number + turn) % len(expected)]
            bad = number == 0 and turn % 2
            response = client.post(PREDICT, json={"instances": instances(half if bad else image)})
            if response.status_code != (400 if bad else 200):
                wrong.append(response.text)
            elif not bad and not np.allclose(
                response.json()["predictions"][0]["probabilities"], probabilities, atol=1e-6
            ):
                wrong.append("another image's answer")

    with TestClient(make_app(counting, None, "127.0.0.1"), base_url=ADDRESS) as client:
        threads = [threading.Thread(target=ask, args=(client, number)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []
    assert max(sizes) > 1
    assert max(sizes) <= 32


def test_a_failure_of_the_model_is_500_without_its_words(served, expected):
    def compute(encoded):
        raise RuntimeError(f"secret of {served.folder}")

    failing = served._replace(classifier=served.classifier._replace(compute=compute, explain=None))
    app = make_app(failing, None, "127.0.0.1")
    with TestClient(app, base_url=ADDRESS, raise_server_exceptions=False) as client:
        response = client.post("/classify", content=expected[0][0])
    assert response.status_code == 500
    assert "secret" not in response.text
    assert list(response.json()) == ["error"]


@pytest.mark.parametrize(
    ("address", "host", "status"),
    [
        ("127.0.0.1", "evil.example", 400),
        ("127.0.0.1", "localhost:8501", 200),
        ("127.0.0.2", "127.0.0.2:8501", 200),
        ("::1", "evil.example", 400),
        ("::1", "[::1]:8501", 200),
        ("0.0.0.0", "birds.example", 200),
        ("::", "birds.example", 200),
    ],
)
def test_other_hosts_are_refused_on_loopback_alone(served, address, host, status):
    client = TestClient(make_app(served, None, address))
    assert client.get("/v1/models/toy", headers={"Host": host}).status_code == status


def test_pages_of_other_origins_are_refused(client, expected):
    for origin, status in (("http://evil.example", 403), ("null", 403), (ADDRESS, 200)):
        response = client.post("/classify", content=expected[0][0], headers={"Origin": origin})
        assert response.status_code == status


def test_the_page_asks_no_other_host_and_says_that_the_nearest_are_missing(client):
    response = client.get("/")
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "http" not in policy
    assert "nearest training images are not shown" in response.text
    assert not re.search(r"(src|href)=\"(?!data:)", response.text)


def test_a_name_with_markup_stays_text(served):
    app = make_app(served._replace(name="<script>alert(1)</script>"), None, "127.0.0.1")
    with TestClient(app, base_url=ADDRESS) as client:
        assert "<script>alert" not in client.get("/").text


def test_a_port_that_is_taken_or_none_is_refused(served):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "--port" in refusal(serve, served, None, "127.0.0.1", taken.getsockname()[1])
    assert "--port" in refusal(serve, served, None, "127.0.0.1", 70_000)
    assert "--host" in refusal(serve, served, None, "no.such.host.invalid", 0)


def test_without_the_extra_the_message_names_it(monkeypatch, toy_run, capsys):
    monkeypatch.setitem(sys.modules, "starlette", None)  # Python's own way to say that a module is not there.
    assert main(["serve", str(toy_run.exports)]) == 2
    assert "pip install 'topgraft[serve]'" in capsys.readouterr().err


def test_a_client_of_tensorflow_serving_gets_its_answers_from_a_real_process(toy_run, expected):
    process, address = start_server(toy_run.exports)
    try:
        # As tensorflow_serving/example/resnet_client.py does it.
        image, probabilities = expected[0]
        predict_request = json.dumps({"instances": [{"b64": base64.b64encode(image).decode("utf-8")}]})
        with requests.Session() as session:
            for _ in range(3):
                response = session.post(f"{address}{PREDICT}", data=predict_request)
                response.raise_for_status()
                prediction = response.json()["predictions"][0]
            np.testing.assert_allclose(prediction["probabilities"], probabilities, atol=1e-6)
            big = session.post(f"{address}{PREDICT}", data=b" " * (33 * 2**20))
            assert big.status_code == 413
    finally:
        process.send_signal(signal.SIGINT)
        rest = process.communicate(timeout=60)[0]
    assert process.returncode == 0
    assert rest == ""
