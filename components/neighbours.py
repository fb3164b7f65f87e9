"""The nearest training images of an image, by the cosine of bottlenecks: from the run directory beside an export."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from components import features
from components.backbone import BackboneSession
from components.errors import UserError
from components.example_sets import read_record
from components.features import MODEL_CARD, Bottlenecks, RunDir
from components.nearest import find_nearest
from components.pages import encode_uri
from components.places import as_path
from components.rejects import RejectedImage
from components.shards import META_SPEC, read_batches, shard_files
from components.thumbnails import make_thumbnail
from components.views import WHOLE, Augment, list_views, serve_views

SHOWN = 5
# Training images kept, the first by the hash of their keys: 256 MB of float16 for a bottleneck of 1280.
MOST_VECTORS = 100_000
# TFRecord: length uint64, its checksum, the content, its checksum.
LENGTH_BYTES, OVERHEAD = 8, 16


class Neighbour(NamedTuple):
    """A training image: its class, the cosine, and a thumbnail as a data URI, '' where it cannot be had."""

    label: str
    cosine: float
    picture: str


class TrainingImages(NamedTuple):
    """Bottlenecks of N training images, float16[N, D] of length 1, their classes, and where each image lies."""

    session: BackboneSession
    views: np.ndarray
    directions: np.ndarray
    labels: list[str]
    places: list[tuple[str, int]]

    def find_nearest(self, encoded: bytes) -> list[Neighbour]:
        """Return the training images nearest to an encoded image, the nearest first."""
        vectors = self.session.compute_bottlenecks([encoded], self.views)
        query = _normalise(serve_views(vectors, len(vectors) > 1)[None])
        nearest = find_nearest(query, self.directions, SHOWN)
        return [
            Neighbour(self.labels[row], min(float(cosine), 1.0), _draw(*self.places[row]))
            for row, cosine in zip(nearest.rows[0].tolist(), nearest.cosines[0])
        ]


def load_training_images(export: Path) -> TrainingImages | None:
    """Load the training images of an exported model, None where its run directory does not lie around it, whole."""
    run = RunDir(export.resolve().parent.parent)
    try:
        backbone_id = json.loads((export / MODEL_CARD).read_text(encoding="utf-8"))["backbone"]["id"]
        shards = _read_outcome(run, "ingest")["shards"]
        outcomes = [_read_outcome(run, stage) for stage in ("extract", "reextract") if _has_outcome(run, stage)]
        (outcome,) = [outcome for outcome in outcomes if outcome["backbone_id"] == backbone_id][-1:]
        bottlenecks = Bottlenecks(**outcome)
        views = WHOLE
        if bottlenecks.average:
            augment = json.loads(run.record.read_text(encoding="utf-8"))["config"]["augment"]
            views = list_views(Augment(**augment))
        return _load(run, bottlenecks, views, shards)
    except (OSError, ValueError, KeyError, TypeError, UserError, tf.errors.OpError):
        return None


def _has_outcome(run: RunDir, stage: str) -> bool:
    return (run.stages / f"{stage}.json").exists()


def _read_outcome(run: RunDir, stage: str) -> dict:
    outcome: dict = json.loads((run.stages / f"{stage}.json").read_text(encoding="utf-8"))["outcome"]
    return outcome


def _load(run: RunDir, bottlenecks: Bottlenecks, views: np.ndarray, shards: int) -> TrainingImages | None:
    spec = {**META_SPEC, features.BOTTLENECK: tf.io.FixedLenFeature([bottlenecks.dim], tf.float32)}
    parts: list[np.ndarray] = []
    labels: list[str] = []
    places: list[tuple[str, int]] = []
    examples = shard_files(run.examples, "train", shards)
    for file, images in zip(shard_files(bottlenecks.folder(run), "train", shards), examples):
        before = len(labels)
        for batch in read_batches([file], spec, 1024):
            parts.append(_normalise(batch[features.BOTTLENECK]).astype(np.float16))
            labels += [text.decode("utf-8", "surrogateescape") for text in batch[features.TEXT]]
        # The bottlenecks of a shard stand in the order of its images.
        offsets = find_offsets(as_path(images))
        if len(offsets) != len(labels) - before:
            return None  # a run in the same directory has begun to change them
        places += [(images, offset) for offset in offsets]
        if len(labels) >= MOST_VECTORS:
            break
    if not labels:
        return None
    session = BackboneSession(run.backbones / bottlenecks.backbone_id)
    directions = np.concatenate(parts)[:MOST_VECTORS]
    return TrainingImages(session, views, directions, labels[:MOST_VECTORS], places[:MOST_VECTORS])


def find_offsets(file: Path) -> list[int]:
    """Return where each record of a TFRecord file begins, without reading their contents."""
    offsets, offset = [], 0
    with file.open("rb") as records:
        while len(length := records.read(LENGTH_BYTES)) == LENGTH_BYTES:
            offsets.append(offset)
            offset += struct.unpack("<Q", length)[0] + OVERHEAD
            records.seek(offset)
    return offsets


def _normalise(vectors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    normalised: np.ndarray = vectors / np.where(lengths > 0, lengths, 1)
    return normalised


def _draw(file: str, offset: int) -> str:
    try:
        thumbnail = make_thumbnail(read_record(file, offset))
    except RejectedImage:
        return ""
    return encode_uri(thumbnail) if thumbnail else ""
