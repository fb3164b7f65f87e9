"""Audit: near-duplicates, doubtful labels, nearest images and a map of the data, from the bottlenecks of all splits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from components.audit.data_map import project_embeddings, sample_rows
from components.audit.label_errors import LabelIssue, find_label_issues
from components.audit.near_duplicates import NearestOther, find_near_duplicates
from components.audit.settings import AuditLimits
from components.audit.similarity import find_nearest, to_embeddings
from components.features import COPY, LABEL_CONFLICT, LEAK, SPLITS
from components.outcomes import Audit, Bottlenecks, Examples, Work
from components.run_dir import RunDir
from components.shards.bottlenecks import read_bottlenecks
from components.shards.records import check_count, shard_files
from components.storage.ownership import replacing_folder
from components.storage.tables import write_csv

NEAR_DUPLICATES, SUSPICIOUS_LABELS = "near_duplicates.csv", "suspicious_labels.csv"
LEAKS, NEAREST, MAP = "leaks.csv", "nearest.csv", "map.csv"
NEAREST_SHOWN = 3
# Cosine of two bottlenecks that are equal up to the rounding of float32 in the network and here.
EQUAL = 1 - 1e-5


class Image(NamedTuple):
    """The columns that describe an image in the tables."""

    path: str
    label: str
    split: str


class PairRow(NamedTuple):
    """One row of near_duplicates.csv."""

    cosine: str
    path: str
    label: str
    split: str
    other_path: str
    other_label: str
    other_split: str
    kind: str  # label_conflict (two classes), else leak (two splits), else copy


class LabelRow(NamedTuple):
    """One row of suspicious_labels.csv, with the confidence in [0, 1] that the other images give to both labels."""

    path: str
    label: str
    split: str
    suggested: str
    label_confidence: str
    suggested_confidence: str


def audit_bottlenecks(examples: Examples, bottlenecks: Bottlenecks, limits: AuditLimits, run: RunDir) -> Audit:
    """Write the tables of audit/ and return their counts; raises DamagedShard for a damaged bottleneck file.

    Of more than limits.max_images images, a sample of about that size is compared: memory grows with the number of
    images, and the time to compare all pairs grows with its square.
    """
    images, checksums, labels, embeddings = read_embeddings(examples, bottlenecks, run, limits.max_images)
    splits = np.array([SPLITS.index(image.split) for image in images], np.int64)
    _, copies = np.unique(np.array(checksums, dtype=object), return_inverse=True)
    found = find_near_duplicates(embeddings, labels, splits, copies, limits.near_duplicate)
    issues = find_label_issues(embeddings, labels, found.groups)
    # The model is trained on the val split too (train.refit), or chosen by it.
    seen = found.splits[:, : SPLITS.index("test")].any(1)
    leaked = np.flatnonzero(seen & (splits == SPLITS.index("test")))
    with replacing_folder(run.audit) as partial:
        write_csv(partial / NEAR_DUPLICATES, PairRow._fields, describe_pairs(found.pairs, images))
        # The test images that have a near-duplicate in the train or val split.
        write_csv(partial / LEAKS, ["path"], ([images[row].path] for row in leaked))
        write_csv(partial / SUSPICIOUS_LABELS, LabelRow._fields, describe_issues(issues, images, examples.labels))
        nearest = describe_nearest(embeddings, images)
        write_csv(partial / NEAREST, ["path", "nearest_path", "nearest_label", "cosine"], nearest)
        write_csv(partial / MAP, [*Image._fields, "x", "y"], describe_map(embeddings, images))
    warnings = describe_equal(found.nearest, images)
    if len(images) < examples.written:
        warnings.insert(
            0,
            f"The audit compared a sample of {len(images):,} of {examples.written:,} images, in which it finds about "
            f"{(len(images) / examples.written) ** 2:.1%} of the near-duplicates (audit.max_images limits the sample).",
        )
    work = Work(examples.written, computed=len(images))
    return Audit(work, found.total, found.leaks, len(issues), warnings)


def read_embeddings(
    examples: Examples, bottlenecks: Bottlenecks, run: RunDir, most: int
) -> tuple[list[Image], list[bytes], np.ndarray, np.ndarray]:
    """Return images, their SHA-256, labels int64[N] and embeddings float32[N, D], sorted by split and shard.

    Of more than `most` images, about that many are drawn. Raises DamagedShard for a damaged file.
    """
    folder, fraction = bottlenecks.folder(run), most / examples.written
    tables = {
        split: read_bottlenecks(shard_files(folder, split, examples.shards), bottlenecks.dim, fraction=fraction)
        for split in SPLITS
    }
    images = [
        Image(key, text, split)
        for split, table in tables.items()
        for key, text in zip(table.keys, table.texts, strict=True)
    ]
    if fraction >= 1:
        check_count(len(images), examples.written, folder)
    checksums = [sha256 for table in tables.values() for sha256 in table.sha256]
    labels = np.concatenate([table.labels for table in tables.values()])
    return images, checksums, labels, to_embeddings(np.concatenate([table.vectors for table in tables.values()]))


def describe_equal(nearest: NearestOther, images: Sequence[Image]) -> list[str]:
    """Return a sentence on images that share their bottleneck with an image of another class, [] without any."""
    equal = np.flatnonzero(nearest.cosines >= EQUAL)
    if not equal.size:
        return []
    row = min(equal, key=lambda row: images[row].path)
    one, other = images[row], images[nearest.rows[row]]
    return [
        f"{len(equal):,} images of different classes have equal bottlenecks, so the model cannot distinguish them: "
        f"the first are '{one.path}' ({one.label}) and '{other.path}' ({other.label})."
    ]


def describe_pairs(pairs: Sequence[tuple[int, int, float]], images: Sequence[Image]) -> list[PairRow]:
    """Return the rows of pairs sorted by falling cosine: leaks and label conflicts before copies within a class."""
    rows = []
    for row_a, row_b, cosine in pairs:
        one, other = images[row_a], images[row_b]
        kind = LABEL_CONFLICT if one.label != other.label else LEAK if one.split != other.split else COPY
        rows.append(PairRow(f"{cosine:.4f}", *one, *other, kind))
    return sorted(rows, key=lambda row: row.kind == COPY)


def describe_issues(issues: Sequence[LabelIssue], images: Sequence[Image], labels: Sequence[str]) -> list[LabelRow]:
    """Return the rows of doubtful labels in their order."""
    return [
        LabelRow(*images[row], labels[suggested], *(f"{confidence:.4f}" for confidence in confidences))
        for row, suggested, *confidences in issues
    ]


def describe_nearest(embeddings: np.ndarray, images: Sequence[Image]) -> Iterator[tuple[str, ...]]:
    """Yield (path, nearest path, its class, cosine) of each test image and the training images nearest to it.

    embeddings are unit vectors float32[N, D]; the nearest image comes first.
    """
    tests, trained = ([row for row, image in enumerate(images) if image.split == split] for split in ("test", "train"))
    nearest = find_nearest(embeddings[tests], embeddings[trained], NEAREST_SHOWN)
    for test, rows, cosines in zip(tests, nearest.rows.tolist(), nearest.cosines, strict=True):
        for row, cosine in zip(rows, cosines, strict=True):
            near = images[trained[row]]
            yield images[test].path, near.path, near.label, f"{cosine:.4f}"


def describe_map(embeddings: np.ndarray, images: Sequence[Image]) -> list[tuple[str, ...]]:
    """Return (path, class, split, x, y) of a random sample of images with embeddings float32[N, D]."""
    rows = sample_rows(len(images))
    points = project_embeddings(embeddings[rows])
    return [(*images[row], f"{x:.2f}", f"{y:.2f}") for row, (x, y) in zip(rows, points, strict=True)]
