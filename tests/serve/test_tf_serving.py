import base64
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from starlette.exceptions import HTTPException
from toys import refusal

from components.export.versions import list_versions
from components.predict.predict import Answer, Classifier
from components.serve.tf_serving import (
    MAX_INSTANCES,
    format_answers,
    load_served,
    name_model,
    parse_predict,
)


def encode(content: bytes) -> dict:
    return {"b64": base64.b64encode(content).decode()}


MODEL = Classifier(["wren", "\udcff"], list, explain=list)


def parse(value, model=MODEL):
    return parse_predict(json.dumps(value).encode(), model)


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
    assert parse(request_body) == ([(b"one", None), (b"two!", None)], "inputs" in request_body)


@pytest.mark.parametrize(
    ("request_body", "wanted"),
    [
        ({"instances": [encode(b"one"), {"image_bytes": encode(b"two!"), "class": "wren"}]}, ["", "wren"]),
        ({"instances": [{**encode(b"one"), "class": "\\udcff"}, encode(b"two!")]}, ["\udcff", ""]),
        ({"inputs": [encode(b"one"), encode(b"two!")]}, ["", ""]),
        ({"inputs": {"image_bytes": [encode(b"one"), encode(b"two!")], "class": ["wren", ""]}}, ["wren", ""]),
    ],
)
def test_each_form_of_a_request_to_explain_names_its_classes(request_body, wanted):
    questions, columnar = parse({**request_body, "signature_name": "explain"})
    assert questions == [*zip([b"one", b"two!"], wanted, strict=True)] and columnar == ("inputs" in request_body)


def test_a_model_that_cannot_explain_says_why():
    with pytest.raises(HTTPException) as caught:
        parse(
            {"instances": [encode(b"a")], "signature_name": "explain"}, MODEL._replace(explain=None, note="It is so.")
        )
    assert caught.value.detail == "This model has no signature 'explain': it is so."


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
        ({"instances": [encode(b"a")], "signature_name": "bottleneck"}, 400, "Only 'serving_default' and 'explain'"),
        ({"instances": [{**encode(b"a"), "class": "owl"}], "signature_name": "explain"}, 400, "name of a class"),
        ({"instances": [{**encode(b"a"), "class": ["wren"]}], "signature_name": "explain"}, 400, "name of a class"),
        ({"instances": [{**encode(b"a"), "class": "wren"}]}, 400, "Image 0 is not of the form"),
        (
            {"inputs": {"image_bytes": [encode(b"a")] * 2, "class": ["wren"]}, "signature_name": "explain"},
            400,
            "for each image",
        ),
        ({"instances": [encode(b"a")] * (MAX_INSTANCES + 1)}, 413, "1,001 images"),
    ],
)
def test_what_a_request_lacks_is_told_in_a_sentence(request_body, status, words):
    with pytest.raises(HTTPException) as caught:
        parse(request_body)
    assert caught.value.status_code == status
    assert words in caught.value.detail
    assert caught.value.detail.endswith(".")


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"[" * 9_000])
def test_a_body_that_is_not_json_is_refused(body):
    with pytest.raises(HTTPException) as caught:
        parse_predict(body, MODEL)
    assert caught.value.status_code == 400
    assert "not JSON" in caught.value.detail


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


def test_the_name_is_the_runs_or_that_of_the_folder(toy_run, tmp_path):
    assert name_model(list_versions(toy_run.exports)[-1]) == "toy"
    assert name_model(tmp_path / "birds" / "export" / "3") == "birds"
    assert name_model(tmp_path / "models" / "birds" / "3") == "birds"


@pytest.mark.parametrize("name", ["a/b", "a:b", "a b", "{a}", "a\udcff"])
def test_a_name_that_is_no_part_of_an_address_is_refused(toy_run, name):
    assert "--name" in refusal(load_served, toy_run.exports, name)


def test_a_run_directory_is_served_and_a_folder_without_an_export_refused(toy_run, tmp_path, monkeypatch):
    assert "does not exist" in refusal(load_served, tmp_path / "gone", None)
    monkeypatch.chdir(toy_run.root)
    served = load_served(Path("."), None)
    assert (served.name, served.folder) == ("toy", list_versions(toy_run.exports)[-1].resolve())


def test_a_copy_of_a_version_elsewhere_is_served_under_its_folders_name(toy_run, tmp_path):
    version = list_versions(toy_run.exports)[-1]
    copy = shutil.copytree(version, tmp_path / "birds" / "7")
    served = load_served(copy.parent, None)
    assert (served.name, served.version, list(served.classifier.labels)) == (
        "birds",
        "7",
        json.loads((version / "model_card.json").read_text())["classes"],
    )
