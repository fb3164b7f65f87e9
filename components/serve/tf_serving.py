"""TensorFlow Serving's view of an export: name, version and metadata of a model, JSON in and out.

https://github.com/tensorflow/serving/blob/master/tensorflow_serving/g3doc/api_rest.md
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from google.protobuf.json_format import MessageToDict
from starlette.exceptions import HTTPException
from tensorflow.core.protobuf import saved_model_pb2

from components.errors import UserError
from components.export.versions import SAVED_MODEL, find_export
from components.features import (
    ABSTAINED,
    CLASS,
    EVIDENCE,
    EXPLAIN_SIGNATURE,
    IMAGE_BYTES,
    INDEX,
    LABEL_NAME,
    PROBABILITIES,
    SERVING_SIGNATURE,
)
from components.predict.predict import Answer, Classifier, load_export, rank_classes
from components.run_dir import RunDir
from components.storage.tables import escape_name

# Images of one request: what 32 MiB of JSON hold of small photos.
MAX_INSTANCES = 1000

# An image's form has two objects, and base64 none of these.
PARTS, MAX_PARTS = (b"[", b"{", b","), 10 * MAX_INSTANCES


class Question(NamedTuple):
    """An encoded image, and the class that it is explained for: '' for the predicted one, None for no explanation."""

    encoded: bytes
    wanted: str | None


class ServedExport(NamedTuple):
    """A loaded export, the name and version of its addresses, and its metadata as TensorFlow Serving words it."""

    name: str
    version: str
    folder: Path
    classifier: Classifier
    metadata: dict


def load_served(folder: Path, name: str | None) -> ServedExport:
    """Load the export that a folder means; raises UserError where there is none."""
    export = find_export(folder).resolve()
    name = name or name_model(export)
    if not re.fullmatch(r"[^/:{}\s\udc80-\udcff]+", name):
        raise UserError(f"'{name}' cannot be part of an address: give a --name of letters and digits.")
    version = export.name if export.name.isdecimal() else "1"
    return ServedExport(name, version, export, load_export(export), read_metadata(export, name, version))


def name_model(export: Path) -> str:
    """Return the name of the run that an export lies in; without its record, that of the folder of the versions."""
    exports = export.parent
    try:
        return str(json.loads(RunDir(exports.parent).record.read_text(encoding="utf-8"))["config"]["name"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return exports.parent.name if exports.name == RunDir(exports).exports.name else exports.name


def read_metadata(export: Path, name: str, version: str) -> dict[str, Any]:
    """Return the metadata of an export: the signatures that are served, with their inputs and outputs."""
    model = saved_model_pb2.SavedModel.FromString((export / SAVED_MODEL).read_bytes())
    signatures = {
        served: MessageToDict(signature, including_default_value_fields=True, preserving_proto_field_name=True)
        for served, signature in model.meta_graphs[0].signature_def.items()
        if served in (SERVING_SIGNATURE, EXPLAIN_SIGNATURE)
    }
    return {
        "model_spec": {"name": name, "signature_name": "", "version": version},
        "metadata": {"signature_def": {"signature_def": signatures}},
    }


def parse_predict(body: bytes, classifier: Classifier) -> tuple[list[Question], bool]:
    """Return the questions of a predict request, and whether it asks for columns; raises HTTPException."""
    if sum(map(body.count, PARTS)) > MAX_PARTS:  # a list of empty lists takes twenty times its bytes
        raise HTTPException(413, f"The body has more than the {MAX_PARTS:,} values allowed in a request.")
    try:
        request = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, "The body is not JSON: send {'instances': [{'b64': '...'}]} as JSON.") from error
    if not isinstance(request, dict) or ("instances" in request) == ("inputs" in request):
        raise HTTPException(400, "The body must be a JSON object with either 'instances' or 'inputs'.")
    signature = request.get("signature_name", SERVING_SIGNATURE)
    explains = signature == EXPLAIN_SIGNATURE
    if explains and not classifier.explain:
        reason = classifier.note[:1].lower() + classifier.note[1:]
        raise HTTPException(400, f"This model has no signature '{EXPLAIN_SIGNATURE}': {reason}")
    if not explains and signature not in ("", SERVING_SIGNATURE):
        raise HTTPException(
            400, f"Only '{SERVING_SIGNATURE}' and '{EXPLAIN_SIGNATURE}' are signatures that are served."
        )
    columnar = "inputs" in request
    values = request["inputs"] if columnar else request["instances"]
    wanted: Any = []
    if columnar and isinstance(values, dict):
        wanted = values.pop(CLASS, []) if explains else []
        values = values.get(IMAGE_BYTES) if set(values) == {IMAGE_BYTES} else None
    if not isinstance(values, list) or not values:
        place = f"'inputs' or its '{IMAGE_BYTES}'" if columnar else "'instances'"
        raise HTTPException(400, f"{place} must be a list of at least one image.")
    if len(values) > MAX_INSTANCES:
        raise HTTPException(413, f"{len(values):,} images are more than the {MAX_INSTANCES:,} allowed in a request.")
    if explains and not columnar:
        wanted = [value.pop(CLASS, "") if isinstance(value, dict) else "" for value in values]
    images = [_decode(value, number, columnar) for number, value in enumerate(values)]
    if not explains:
        return [Question(image, None) for image in images], columnar
    names, wanted = {escape_name(label): label for label in classifier.labels} | {"": ""}, wanted or [""] * len(images)
    texts = isinstance(wanted, list) and all(isinstance(name, str) for name in wanted)
    if not texts or len(wanted) != len(images) or not names.keys() >= {*wanted}:
        raise HTTPException(400, f"'{CLASS}' must be the name of a class of this model, or '', for each image.")
    return [Question(image, names[name]) for image, name in zip(images, wanted, strict=True)], columnar


def _decode(value: Any, number: int, columnar: bool) -> bytes:
    if not columnar and isinstance(value, dict) and set(value) == {IMAGE_BYTES}:
        value = value[IMAGE_BYTES]
    text = value.get("b64") if isinstance(value, dict) and set(value) == {"b64"} else None
    if not isinstance(text, str):
        raise HTTPException(400, f"Image {number} is not of the form {{'b64': '<base64 of an image file>'}}.")
    text = "".join(text.split())  # as in TensorFlow Serving, line breaks and a missing end do no harm
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise HTTPException(400, f"Image {number} is not valid base64.") from error


def format_answers(answers: Sequence[Answer], labels: Sequence[str], columnar: bool) -> dict[str, Any]:
    """Return the answer to a predict request: a row an image, or a column an output."""
    rows = [_format_answer(answer, labels) for answer in answers]
    if not columnar:
        return {"predictions": rows}
    return {"outputs": {name: [row[name] for row in rows] for name in rows[0]}}


def _format_answer(answer: Answer, labels: Sequence[str]) -> dict[str, Any]:
    (index,) = rank_classes(answer.probabilities, 1)
    row = {INDEX: index, LABEL_NAME: labels[index], PROBABILITIES: answer.probabilities.tolist()}
    if answer.evidence is not None:
        row[EVIDENCE] = answer.evidence[0].tolist()
    return row if answer.abstained is None else {**row, ABSTAINED: answer.abstained}


def format_status(version: str) -> dict[str, Any]:
    """Return the status of a model that is loaded."""
    status = {"error_code": "OK", "error_message": ""}
    return {"model_version_status": [{"version": version, "state": "AVAILABLE", "status": status}]}
