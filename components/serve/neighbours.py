"""The nearest training images of an image, as the audit finds them: from the run directory around an export.

Both go by the bottlenecks of the stage extract, so those of a backbone as it was before fine-tuning.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from components import features
from components.audit.similarity import Standardization, find_nearest, fit_standardization, standardize
from components.backbones.prepare import BackboneSession
from components.backbones.settings import Augment
from components.backbones.views import WHOLE, list_views, serve_views
from components.data.tf_examples import find_offsets
from components.data.tfrecords import read_record
from components.errors import UserError
from components.features import SPLITS
from components.images.thumbnail import make_thumbnail
from components.outcomes import Bottlenecks
from components.pages.html import encode_uri
from components.rejects import RejectedImage
from components.run_dir import MODEL_CARD, RunDir
from components.shards.records import META_SPEC, read_batches, shard_files
from components.storage.places import as_path
from components.terminal.text import printable

SHOWN = 5
# Training images kept, the first by the hash of their keys: 512 MB for a bottleneck of 1280.
MOST_VECTORS = 100_000
READ_AT_ONCE = 1024


class Neighbour(NamedTuple):
    """A training image: its key, class and cosine, and a thumbnail as a data URI, '' where it cannot be had."""

    path: str
    label: str
    cosine: float
    picture: str


class TrainingImages(NamedTuple):
    """Directions float32[N, D] of N training images, their keys and classes, and where each image lies."""

    session: BackboneSession
    views: np.ndarray
    spread: Standardization
    directions: np.ndarray
    keys: list[str]
    labels: list[str]
    places: list[tuple[str, int]]

    def find_nearest(self, encoded: bytes) -> list[Neighbour]:
        """Return the training images nearest to an encoded image, the nearest first."""
        vectors = self.session.compute_bottlenecks([encoded], self.views)
        query = standardize(serve_views(vectors, len(vectors) > 1)[None], self.spread)
        nearest = find_nearest(query, self.directions, SHOWN)
        return [
            Neighbour(self.keys[row], self.labels[row], min(float(cosine), 1.0), _draw(*self.places[row]))
            for row, cosine in zip(nearest.rows[0].tolist(), nearest.cosines[0], strict=True)
        ]


def load_training_images(export: Path) -> TrainingImages | None:
    """Load the training images of an exported model, None where its run directory does not lie around it, whole."""
    run = RunDir(export.resolve().parent.parent)
    try:
        backbone_id = json.loads((export / MODEL_CARD).read_text(encoding="utf-8"))["backbone"]["id"]
        shards = _read_outcome(run, "ingest")["shards"]
        bottlenecks = Bottlenecks(**_read_outcome(run, "extract"))
        if backbone_id != bottlenecks.backbone_id and backbone_id != _read_outcome(run, "reextract")["backbone_id"]:
            return None  # the run directory has gone on to another model
        views = WHOLE
        if bottlenecks.average:
            augment = json.loads(run.record.read_text(encoding="utf-8"))["config"]["augment"]
            views = list_views(Augment(**augment))
        return _load(run, bottlenecks, views, shards)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, UserError, tf.errors.OpError) as error:
        reason = printable(str(error).partition("\n")[0])
        print(f"topgraft: the page does not show the nearest training images ({reason}).", file=sys.stderr)
        return None


def _read_outcome(run: RunDir, stage: str) -> dict:
    outcome: dict = json.loads((run.stages / f"{stage}.json").read_text(encoding="utf-8"))["outcome"]
    return outcome


def _load(run: RunDir, bottlenecks: Bottlenecks, views: np.ndarray, shards: Sequence[int]) -> TrainingImages | None:
    folder, spec = bottlenecks.folder(run), {features.BOTTLENECK: tf.io.FixedLenFeature([bottlenecks.dim], tf.float32)}
    everything = [file for split in SPLITS for file in shard_files(folder, split, shards)]
    spread = fit_standardization(batch[features.BOTTLENECK] for batch in read_batches(everything, spec, READ_AT_ONCE))
    parts: list[np.ndarray] = []
    keys: list[str] = []
    labels: list[str] = []
    places: list[tuple[str, int]] = []
    examples = shard_files(run.examples, "train", shards)
    for file, images in zip(shard_files(folder, "train", shards), examples, strict=True):
        before = len(labels)
        for batch in read_batches([file], {**META_SPEC, **spec}, READ_AT_ONCE):
            parts.append(standardize(batch[features.BOTTLENECK], spread))
            keys += [key.decode("utf-8", "surrogateescape") for key in batch[features.KEY]]
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
    directions, most = np.concatenate(parts)[:MOST_VECTORS], MOST_VECTORS
    return TrainingImages(session, views, spread, directions, keys[:most], labels[:most], places[:most])


def _draw(file: str, offset: int) -> str:
    try:
        thumbnail = make_thumbnail(read_record(file, offset))
    except (RejectedImage, OSError):  # the page then shows the neighbour without its picture
        return ""
    return encode_uri(thumbnail) if thumbnail else ""
