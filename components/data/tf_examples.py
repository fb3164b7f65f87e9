"""One record of a foreign TFRecord file: its bytes, and what its tf.Example tells of an image and its class."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import google_crc32c
import tensorflow as tf
from google.protobuf.message import DecodeError

from components.data.class_names import is_one_line
from components.rejects import BAD_NAME, CORRUPT, NO_CLASS, NOT_AN_IMAGE, RejectedImage

# The name of a feature in TF-Slim, then that in TensorFlow Datasets.
IMAGE = ("image/encoded", "image")
LABEL = ("image/class/label", "label")
TEXT = ("image/class/text",)


# A record's frame: length uint64, its sum uint32, content, sum of that; a sum is CRC-32C, rotated and shifted.
LENGTH_BYTES, SUM_BYTES = 8, 4
FRAME_BYTES = LENGTH_BYTES + 2 * SUM_BYTES
SUM_SHIFT = 0xA282EAD8


def read_content(file: BinaryIO, left: int) -> bytes:
    """Return the content of the record where a file stands, left bytes before its end; raises RejectedImage.

    TensorFlow's own reader at an offset takes 16 MiB from the file for each record that is not the next one.
    """
    length = file.read(LENGTH_BYTES)
    whole = _read_sum(file) == _sum(length) and int.from_bytes(length, "little") <= left - FRAME_BYTES
    content = file.read(int.from_bytes(length, "little")) if whole else b""
    if not whole or _read_sum(file) != _sum(content):
        raise RejectedImage(CORRUPT, "the record is damaged")
    return content


def find_offsets(file: Path) -> list[int]:
    """Return where each record of a TFRecord file begins, without reading their contents."""
    offsets, offset = [], 0
    with file.open("rb") as records:
        size = records.seek(0, os.SEEK_END)
        while offset < size:
            offsets.append(offset)
            records.seek(offset)
            offset += int.from_bytes(records.read(LENGTH_BYTES), "little") + FRAME_BYTES
    return offsets


def _read_sum(file: BinaryIO) -> int:
    return int.from_bytes(file.read(SUM_BYTES), "little")


def _sum(content: bytes) -> int:
    value: int = google_crc32c.value(content)
    return ((value >> 15 | value << 17) + SUM_SHIFT) & 0xFFFFFFFF


def parse_features(content: bytes) -> Mapping[str, Any]:
    """Return the features of a serialized tf.Example by name; raises RejectedImage for anything else."""
    try:
        features: Mapping[str, Any] = tf.train.Example.FromString(content).features.feature
    except DecodeError as error:
        raise RejectedImage(CORRUPT, "the record is not a tf.Example") from error
    return features


def find_image(features: Mapping[str, Any]) -> bytes:
    """Return the bytes of the encoded image; raises RejectedImage where there is none, or more than one."""
    values = _find_values(features, IMAGE)
    if len(values) != 1 or not isinstance(values[0], bytes):
        found = ", ".join(sorted(features)) or "nothing"
        raise RejectedImage(NOT_AN_IMAGE, f"the record has no encoded image in {' or '.join(IMAGE)}, but {found}")
    image: bytes = values[0]
    return image


def find_class(features: Mapping[str, Any]) -> tuple[int | None, str]:
    """Return number and name of the class, None and '' where they are not told; raises RejectedImage for neither."""
    labels, texts = _find_values(features, LABEL), [text for text in _find_values(features, TEXT) if text]
    if max(len(labels), len(texts)) != 1:
        raise RejectedImage(NO_CLASS, f"the record has {max(len(labels), len(texts))} labels, expected one")
    number = labels[0] if labels and isinstance(labels[0], int) else None
    name = next((value for value in (*texts, *labels) if isinstance(value, bytes)), b"")
    # TensorFlow Datasets numbers what has no label -1.
    if (number is None and not name) or (number or 0) < 0:
        raise RejectedImage(NO_CLASS, f"the record has the label {(*labels, *texts)[0]!r}, which is none")
    text = name.decode("utf-8", "surrogateescape")
    if not is_one_line(text):
        raise RejectedImage(BAD_NAME, f"its class {text!r} is not UTF-8 or holds a line break")
    return number, text


def _find_values(features: Mapping[str, Any], names: Sequence[str]) -> list[Any]:
    found = [features[name] for name in names if name in features]  # looking up a name that is not there would add it
    return list(found[0].bytes_list.value or found[0].int64_list.value) if found else []
