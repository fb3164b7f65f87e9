"""The nearest training images of an image, as the audit finds them: from the run directory around an export.

Both go by the bottlenecks of the stage extract, so those of a backbone as it was before fine-tuning.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

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
from components.shards.bottlenecks import read_bottlenecks
from components.shards.records import read_batches, shard_files
from components.storage.places import as_path
from components.terminal.text import printable

SHOWN = 5
# Training images kept, the first by the hash of their keys: 512 MB for a bottleneck of 1280.
MOST_VECTORS = 100_000


class Neighbour(NamedTuple):
    """A training image: its key, class and cosine, and a thumbnail as a data URI, '' where it cannot be had."""

    path: str
    label: str
    cosine: float
    picture: str


class TrainingImages(NamedTuple):
    """Directions float32[N, D] of N training images; the key, class, file and offset of each."""

    session: BackboneSession
    views: np.ndarray
    spread: Standardization
    directions: np.ndarray
    images: list[tuple[str, str, str, int]]

    def find_nearest(self, encoded: bytes) -> list[Neighbour]:
        """Return the training images nearest to an encoded image, the nearest first."""
        vectors = self.session.compute_bottlenecks([encoded], self.views)
        query = standardize(serve_views(vectors, len(vectors) > 1)[None], self.spread)
        nearest = find_nearest(query, self.directions, SHOWN)
        images = [self.images[row] for row in nearest.rows[0]]
        return [
            Neighbour(key, text, min(cosine, 1.0), _draw(file, offset))
            for (key, text, file, offset), cosine in zip(images, nearest.cosines[0].tolist(), strict=True)
        ]


def load_training_images(export: Path) -> TrainingImages | None:
    """Load the training images of an exported model, None where its run directory does not lie around it, whole."""
    run = RunDir(export.resolve().parent.parent)
    try:
        backbone_id = _read_json(export / MODEL_CARD)["backbone"]["id"]
        bottlenecks = Bottlenecks(**_read_json(run.stages / "extract.json")["outcome"])
        tuned = run.stages / "reextract.json"
        if backbone_id != bottlenecks.backbone_id and backbone_id != _read_json(tuned)["outcome"]["backbone_id"]:
            return None  # the run directory holds another model by now
        views = list_views(Augment(**_read_json(run.record)["config"]["augment"])) if bottlenecks.average else WHOLE
        return _load(run, bottlenecks, views, _read_json(run.stages / "ingest.json")["outcome"]["shards"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, UserError, tf.errors.OpError) as error:
        reason = printable(str(error).partition("\n")[0])
        print(f"topgraft: the page does not show the nearest training images ({reason}).", file=sys.stderr)
        return None


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _load(run: RunDir, bottlenecks: Bottlenecks, views: np.ndarray, shards: Sequence[int]) -> TrainingImages | None:
    folder, spec = bottlenecks.folder(run), {features.BOTTLENECK: tf.io.FixedLenFeature([bottlenecks.dim], tf.float32)}
    everything = [file for split in SPLITS for file in shard_files(folder, split, shards)]
    spread = fit_standardization(batch[features.BOTTLENECK] for batch in read_batches(everything, spec))
    parts: list[np.ndarray] = []
    images: list[tuple[str, str, str, int]] = []
    for file, examples in zip(*(shard_files(place, "train", shards) for place in (folder, run.examples)), strict=True):
        # The bottlenecks of a shard stand in the order of its images.
        table, offsets = read_bottlenecks([file], bottlenecks.dim), find_offsets(as_path(examples))
        if len(offsets) != len(table.keys):
            return None  # a run in the same directory has begun to change them
        parts.append(standardize(table.vectors, spread))
        images += zip(table.keys, table.texts, [examples] * len(offsets), offsets, strict=True)
        if len(images) >= MOST_VECTORS:
            break
    if not images:
        return None
    session = BackboneSession(run.backbones / bottlenecks.backbone_id)
    return TrainingImages(session, views, spread, np.concatenate(parts)[:MOST_VECTORS], images[:MOST_VECTORS])


def _draw(file: str, offset: int) -> str:
    try:
        thumbnail = make_thumbnail(read_record(file, offset))
    except (RejectedImage, OSError):  # the page then shows the neighbour without its picture
        return ""
    return encode_uri(thumbnail) if thumbnail else ""
