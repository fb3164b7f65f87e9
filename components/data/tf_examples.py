"""Records of TFRecord files: their bytes, and the image and class in their tf.Example."""

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

# Keys of features: those of TF-Slim, then those of TensorFlow Datasets.
IMAGE_KEYS = ("image/encoded", "image")
LABEL_KEYS = ("image/class/label", "label")
TEXT_KEYS = ("image/class/text",)

# A record has its length (uint64), the checksum of that (uint32), its content, and the checksum of that (uint32).
LENGTH_BYTES, CHECKSUM_BYTES = 8, 4
FRAME_BYTES = LENGTH_BYTES + 2 * CHECKSUM_BYTES


def read_content(file: BinaryIO, left: int) -> bytes:
    """Return the content of the record at a file's position, left bytes before its end; raises RejectedImage.

    TensorFlow's own reader would read 16 MiB for each record that is not the next one.
    """
    length = file.read(LENGTH_BYTES)
    size = int.from_bytes(length, "little")
    is_valid = file.read(CHECKSUM_BYTES) == _compute_checksum(length) and size <= left - FRAME_BYTES
    content = file.read(size) if is_valid else b""
    if not is_valid or file.read(CHECKSUM_BYTES) != _compute_checksum(content):
        raise RejectedImage(CORRUPT, "the record is damaged")
    return content


def find_offsets(file: Path) -> list[int]:
    """Return the offset in bytes of each record of a TFRecord file, without reading their contents."""
    offsets, offset = [], 0
    with file.open("rb") as records:
        size = records.seek(0, os.SEEK_END)
        while offset < size:
            offsets.append(offset)
            records.seek(offset)
            offset += int.from_bytes(records.read(LENGTH_BYTES), "little") + FRAME_BYTES
    return offsets


def _compute_checksum(content: bytes) -> bytes:
    """Return the masked CRC-32C of TensorFlow (tsl/lib/hash/crc32c.h)."""
    value = google_crc32c.value(content)
    return (((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF).to_bytes(CHECKSUM_BYTES, "little")


def parse_features(content: bytes) -> Mapping[str, Any]:
    """Return the features of a serialized tf.Example by name; raises RejectedImage for other bytes."""
    try:
        features: Mapping[str, Any] = tf.train.Example.FromString(content).features.feature
    except DecodeError as error:
        raise RejectedImage(CORRUPT, "the record is not a tf.Example") from error
    return features


def find_image(features: Mapping[str, Any]) -> bytes:
    """Return the bytes of the encoded image; raises RejectedImage for none and for more than one."""
    values = _find_values(features, IMAGE_KEYS)
    if len(values) != 1 or not isinstance(values[0], bytes):
        found = ", ".join(sorted(features)) or "nothing"
        raise RejectedImage(NOT_AN_IMAGE, f"the record has no image in {' or '.join(IMAGE_KEYS)}, but {found}")
    image: bytes = values[0]
    return image


def find_class(features: Mapping[str, Any]) -> tuple[int | None, str]:
    """Return number and name of the class, None or '' for an absent one; raises RejectedImage if both are absent."""
    labels, texts = _find_values(features, LABEL_KEYS), [text for text in _find_values(features, TEXT_KEYS) if text]
    if max(len(labels), len(texts)) != 1:
        raise RejectedImage(NO_CLASS, f"the record has {max(len(labels), len(texts))} labels, expected one")
    number = labels[0] if labels and isinstance(labels[0], int) else None
    name = next((value for value in (*texts, *labels) if isinstance(value, bytes)), b"")
    # TensorFlow Datasets gives an image without a label the number -1.
    if (number is None and not name) or (number or 0) < 0:
        raise RejectedImage(NO_CLASS, f"the record has the label {(*labels, *texts)[0]!r}, which names no class")
    text = name.decode("utf-8", "surrogateescape")
    if not is_one_line(text):
        raise RejectedImage(BAD_NAME, f"its class {text!r} is not UTF-8 or has a line break")
    return number, text


def _find_values(features: Mapping[str, Any], names: Sequence[str]) -> list[Any]:
    found = [features[name] for name in names if name in features]  # reading an absent name would add it
    return list(found[0].bytes_list.value or found[0].int64_list.value) if found else []
