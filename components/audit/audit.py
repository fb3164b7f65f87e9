"""Audit: near-duplicates, doubtful labels, nearest images and a map of the data, from the bottlenecks of all splits."""

from __future__ import annotations

import numpy as np

from components.audit.label_errors import find_label_issues
from components.audit.near_duplicates import find_near_duplicates
from components.audit.settings import AuditLimits
from components.audit.similarity import to_embeddings
from components.audit.tables import (
    Image,
    LabelRow,
    PairRow,
    describe_equal,
    describe_issues,
    describe_map,
    describe_nearest,
    describe_pairs,
)
from components.features import SPLITS
from components.outcomes import Audit, Bottlenecks, Examples, Work
from components.run_dir import RunDir
from components.shards.bottlenecks import read_bottlenecks
from components.shards.records import check_count, shard_files
from components.storage.ownership import replacing_folder
from components.storage.tables import write_csv

NEAR_DUPLICATES, SUSPICIOUS_LABELS = "near_duplicates.csv", "suspicious_labels.csv"
LEAKS, NEAREST, MAP = "leaks.csv", "nearest.csv", "map.csv"


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
