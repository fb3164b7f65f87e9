"""Audit: which images look like which others, and which labels look wrong, by the bottlenecks of all splits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from components.audit.data_map import lay_out, sample_rows
from components.audit.label_errors import LabelIssue, find_label_issues
from components.audit.near_duplicates import Nearest, Pair, find_near_duplicates
from components.audit.settings import AuditLimits
from components.audit.similarity import find_nearest, to_directions
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
# Cosine of two bottlenecks that are equal up to the rounding of float32, in the network and here.
EQUAL = 1 - 1e-5


class Image(NamedTuple):
    """What a row of both files says of an image."""

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


class LeakRow(NamedTuple):
    """One row of leaks.csv: a test image that has a near-duplicate in the train split."""

    path: str


class NearestRow(NamedTuple):
    """One row of nearest.csv: a test image and one of the training images that are most like it, the nearest first."""

    path: str
    nearest_path: str
    nearest_label: str
    cosine: str


class MapRow(NamedTuple):
    """One row of map.csv: where an image of a random sample lies among the others."""

    path: str
    label: str
    split: str
    x: str
    y: str


class LabelRow(NamedTuple):
    """One row of suspicious_labels.csv, the most doubtful first; confidences of the other images in both labels."""

    path: str
    label: str
    split: str
    suggested: str
    label_confidence: str
    suggested_confidence: str


class Audited(NamedTuple):
    """The images of an audit, sorted by split and shard: their sums, labels int64[N] and directions float32[N, D]."""

    images: list[Image]
    sums: list[bytes]
    labels: np.ndarray
    directions: np.ndarray


def audit_bottlenecks(examples: Examples, bottlenecks: Bottlenecks, limits: AuditLimits, run: RunDir) -> Audit:
    """Write the tables of audit/.

    With more than limits.max_images images, it is of a sample of about so many: memory grows with their number, and the
    time to compare all pairs with its square.
    """
    share = limits.max_images / examples.written
    images, sums, labels, directions = read_images(examples, bottlenecks, run, share)
    splits = np.array([SPLITS.index(image.split) for image in images], np.int64)
    _, copies = np.unique(np.array(sums, dtype=object), return_inverse=True)
    found = find_near_duplicates(directions, labels, splits, copies, limits.near_duplicate)
    issues = find_label_issues(directions, labels, found.groups)
    train, test = (SPLITS.index(split) for split in ("train", "test"))
    leaked = np.flatnonzero(found.splits[:, train] & (splits == test))
    with replacing_folder(run.audit) as partial:
        write_csv(partial / NEAR_DUPLICATES, PairRow._fields, describe_pairs(found.pairs, images))
        write_csv(partial / LEAKS, LeakRow._fields, (LeakRow(images[row].path) for row in leaked))
        write_csv(partial / SUSPICIOUS_LABELS, LabelRow._fields, describe_issues(issues, images, examples.labels))
        write_csv(partial / NEAREST, NearestRow._fields, describe_nearest(directions, images))
        write_csv(partial / MAP, MapRow._fields, describe_map(directions, images))
    warnings = [*describe_sample(len(images), examples.written), *describe_equal(found.nearest, images)]
    work = Work(examples.written, computed=len(images))
    return Audit(work, found.total, found.leaks, len(issues), warnings)


def read_images(examples: Examples, bottlenecks: Bottlenecks, run: RunDir, share: float) -> Audited:
    """Read the bottlenecks of all splits, or a share of them; raises DamagedShard for a damaged file."""
    folder = bottlenecks.folder(run)
    tables = {
        split: read_bottlenecks(shard_files(folder, split, examples.shards), bottlenecks.dim, fraction=share)
        for split in SPLITS
    }
    if share >= 1:
        check_count(sum(len(table.keys) for table in tables.values()), examples.written, folder)
    return Audited(
        [
            Image(key, text, split)
            for split, table in tables.items()
            for key, text in zip(table.keys, table.texts, strict=True)
        ],
        [sha256 for table in tables.values() for sha256 in table.sha256],
        np.concatenate([table.labels for table in tables.values()]),
        to_directions(np.concatenate([table.vectors for table in tables.values()])),
    )


def describe_sample(images: int, of: int) -> list[str]:
    """Return a sentence on the audit of a sample, none where it took all images."""
    if images == of:
        return []
    return [
        f"The audit looked at a sample of {images:,} of {of:,} images: of the pairs that look alike it finds "
        f"{(images / of) ** 2:.1%} (audit.max_images sets how many it takes)."
    ]


def describe_equal(nearest: Nearest, images: Sequence[Image]) -> list[str]:
    """Return a sentence on the images whose bottleneck an image of another class has too, none without any."""
    equal = np.flatnonzero(nearest.cosines >= EQUAL)
    if not equal.size:
        return []
    row = min(equal, key=lambda row: images[row].path)
    one, other = images[row], images[nearest.rows[row]]
    return [
        f"{len(equal):,} images of different classes have equal bottlenecks, so that the model cannot tell them apart: "
        f"the first are '{one.path}' ({one.label}) and '{other.path}' ({other.label})."
    ]


def describe_pairs(pairs: Sequence[Pair], images: Sequence[Image]) -> list[PairRow]:
    """Return the rows of pairs that come the closest first: leaks and conflicts before copies within a class."""

    def describe(pair: Pair) -> PairRow:
        one, other = images[pair.row_a], images[pair.row_b]
        kind = LABEL_CONFLICT if one.label != other.label else LEAK if one.split != other.split else COPY
        return PairRow(f"{pair.cosine:.4f}", *one, *other, kind)

    return sorted(map(describe, pairs), key=lambda row: row.kind == COPY)


def describe_issues(issues: Sequence[LabelIssue], images: Sequence[Image], labels: Sequence[str]) -> list[LabelRow]:
    """Return the rows of doubtful labels in their order."""
    return [
        LabelRow(
            *images[issue.row],
            labels[issue.suggested],
            f"{issue.label_confidence:.4f}",
            f"{issue.suggested_confidence:.4f}",
        )
        for issue in issues
    ]


def describe_nearest(directions: np.ndarray, images: Sequence[Image]) -> Iterator[NearestRow]:
    """Yield the training images nearest to each test image, of directions float32[N, D] of length 1."""
    tests, trained = ([row for row, image in enumerate(images) if image.split == split] for split in ("test", "train"))
    nearest = find_nearest(directions[tests], directions[trained], NEAREST_SHOWN)
    for test, rows, cosines in zip(tests, nearest.rows.tolist(), nearest.cosines, strict=True):
        for row, cosine in zip(rows, cosines, strict=True):
            near = images[trained[row]]
            yield NearestRow(images[test].path, near.path, near.label, f"{cosine:.4f}")


def describe_map(directions: np.ndarray, images: Sequence[Image]) -> list[MapRow]:
    """Return the places of a random sample of images, directions float32[N, D]."""
    rows = sample_rows(len(images))
    places = lay_out(directions[rows])
    return [
        MapRow(*images[row], *(f"{number:.2f}" for number in place)) for row, place in zip(rows, places, strict=True)
    ]
