import base64
import json

import numpy as np
import pytest

from components.predict.predict import Answer
from components.serve.tf_serving import MAX_INSTANCES, MODEL_PATH, RefusedRequest, format_answers, parse_predict


def encode(content: bytes) -> dict:
    return {"b64": base64.b64encode(content).decode()}


def parse(value):
    return parse_predict(json.dumps(value).encode())


@pytest.mark.parametrize(
    "request_body",
    [
        {"instances": [encode(b"one"), encode(b"two!")]},
        {"instances": [{"image_bytes": encode(b"one")}, {"image_bytes": encode(b"two!")}]},
        {"inputs": [encode(b"one"), encode(b"two!")], "signature_name": "serving_default"},
        {"inputs": {"image_bytes": [encode(b"one"), encode(b"two!")]}, "signature_name": ""},
        {"instances": [{"b64": "b25l"}, {"b64": "dHdv\nIQ"}]},
    ],
)
def test_each_form_of_a_request_gives_the_same_images(request_body):
    assert parse(request_body) == ([b"one", b"two!"], "inputs" in request_body)


@pytest.mark.parametrize(
    ("request_body", "status", "words"),
    [
        ([], 400, "JSON object"),
        ({}, 400, "either 'instances' or 'inputs'"),
        ({"instances": [encode(b"a")], "inputs": [encode(b"a")]}, 400, "either"),
        ({"instances": []}, 400, "at least one"),
        ({"instances": "b25l"}, 400, "a list"),
        ({"inputs": encode(b"a")}, 400, "a list"),
        ({"inputs": {"other": [encode(b"a")]}}, 400, "image_bytes"),
        ({"instances": [encode(b"a"), "b25l"]}, 400, "Image 1 is not of the form"),
        ({"instances": [{"b64": 1}]}, 400, "Image 0 is not of the form"),
        ({"instances": [{"b64": "a", "other": "b"}]}, 400, "Image 0 is not of the form"),
        ({"instances": [encode(b"a"), {"b64": "*!"}]}, 400, "Image 1 is not valid base64"),
        ({"instances": [{"b64": "\u00e4\u00e4\u00e4\u00e4"}]}, 400, "Image 0 is not valid base64"),
        ({"instances": [encode(b"a")], "signature_name": "bottleneck"}, 400, "Only the signature 'serving_default'"),
        ({"instances": [encode(b"a")] * (MAX_INSTANCES + 1)}, 413, "1,001 images"),
    ],
)
def test_what_a_request_lacks_is_told_in_a_sentence(request_body, status, words):
    with pytest.raises(RefusedRequest) as caught:
        parse(request_body)
    assert caught.value.args[0] == status
    assert words in caught.value.args[1]
    assert caught.value.args[1].endswith(".")


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"[" * 9_000])
def test_a_body_that_is_not_json_is_refused(body):
    with pytest.raises(RefusedRequest) as caught:
        parse_predict(body)
    assert caught.value.args[0] == 400
    assert "not JSON" in caught.value.args[1]


def test_answers_stand_in_rows_or_columns():
    answers = [Answer(np.array([0.25, 0.75], np.float32)), Answer(np.array([0.5, 0.5], np.float32))]
    rows = [
        {"index": 1, "label": "b", "probabilities": [0.25, 0.75]},
        {"index": 0, "label": "a", "probabilities": [0.5, 0.5]},
    ]
    columns = {"index": [1, 0], "label": ["b", "a"], "probabilities": [[0.25, 0.75], [0.5, 0.5]]}
    assert format_answers(answers, ["a", "b"], columnar=False) == {"predictions": rows}
    assert format_answers(answers, ["a", "b"], columnar=True) == {"outputs": columns}


def test_a_model_that_can_abstain_says_whether_it_does():
    answers = [Answer(np.array([0.25, 0.75], np.float32), True)]
    assert format_answers(answers, ["a", "b"], columnar=True)["outputs"]["abstained"] == [True]


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("birds", ("birds", None, None)),
        ("birds:predict", ("birds", None, ":predict")),
        ("birds/metadata", ("birds", None, "/metadata")),
        ("birds/versions/17:predict", ("birds", "17", ":predict")),
    ],
)
def test_paths_name_model_version_and_action(path, parts):
    match = MODEL_PATH.fullmatch(path)
    assert (match["name"], match["version"], match["action"]) == parts


@pytest.mark.parametrize("path", ["", "birds:classify", "birds/versions/x", "birds/labels/stable", "a/b:predict"])
def test_other_paths_are_not_taken(path):
    assert MODEL_PATH.fullmatch(path) is None
