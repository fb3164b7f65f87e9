"""Ingest: image files to TFRecord shards; every file is read once, and written, rejected or dropped as a copy."""

from __future__ import annotations

import collections
import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from components.duplicates import Copy, find_copies
from components.errors import UserError
from components.example_shards import WriteExampleShard, plan_file, remove_begun
from components.features import SPLITS, Examples, RunDir, Work, index_name
from components.file_index import (
    Row,
    encode_text,
    file_stamp,
    measure_shard,
    read_facts,
    read_index,
    remove_other_shards,
    write_index,
)
from components.files import remove_partials, write_csv, write_text
from components.findings import describe_copies, describe_files, describe_splits
from components.image_headers import Limits
from components.listing import Listing
from components.progress import Progress
from components.rejects import DUPLICATE, Reject
from components.sharding import assign_shard
from components.split import Member, SplitPlan, assign_splits

COLUMNS = ("path", "label", "source", "split", "rule", "format", "width", "height", "sha256")


@dataclass(frozen=True)
class IngestRules:
    """What is done with the files: duplicates is drop, keep or fail; label_conflicts is warn or fail."""

    plan: SplitPlan
    limits: Limits = field(default_factory=Limits)
    duplicates: str = "drop"
    label_conflicts: str = "warn"
    max_reject_share: float = 0.05


class FormerSplits(NamedTuple):
    """The splits that an earlier run of the same rule settled, by key and, for files since renamed, by SHA-256."""

    by_key: Mapping[str, str]
    by_sha256: Mapping[str, str]


def ingest_images(
    listing: Listing, run: RunDir, shards: int, rules: IngestRules, options: PipelineOptions, progress: Progress
) -> Examples:
    """Write shards, labels.txt, images.csv, rejects.jsonl and duplicates.csv of a listing, reading what is new in it.

    Raises UserError when too much of it is unusable, or when copies are there and the rules forbid them.
    """
    _check_plan(rules.plan, listing)
    run.examples.mkdir(parents=True, exist_ok=True)
    remove_partials(run.examples)
    known = read_facts(run.examples, rules.limits)
    former = _read_former(run, rules.plan)
    rows = [Row(file, known.get(file_stamp(file))) for file in listing.files]
    new = sum(row.facts is None for row in rows)
    size = sum(row.file.size for row in rows if row.facts is None)
    with progress.watch_folder(run.examples, size, new, "images"):
        # By what is known before reading; where no file turns out to be damaged or a copy, it stays as it is.
        rows, _ = settle_rows(rows, listing, rules, former)
        rows = write_rows(rows, run, shards, rules.limits, options)
        settled, copies = settle_rows(rows, listing, rules, former)
        _write_copies(run, copies, rules)
        if settled != rows:
            _check_unchanged(settled, write_rows(settled, run, shards, rules.limits, options))
    remove_other_shards(run.examples, shards)
    remove_begun(run.examples)
    if not all(measure_shard(run.examples, shard, shards) for shard in range(shards)):
        raise UserError(f"Shards vanished from '{run.examples}' as they were written: run again, which mends that.")

    rejects = _list_rejects(settled, listing, copies)
    write_text(run.rejects, "".join(f"{json.dumps(reject._asdict())}\n" for reject in rejects))
    write_text(run.labels, "".join(f"{text}\n" for text in listing.labels))
    kept = sorted(row for row in settled if row.split)
    _write_images(run, kept, describe_rule(rules.plan))
    _check_share(rejects, len(kept) + len(rejects), rules.max_reject_share, run)
    _check_classes(kept, listing.labels)
    splits = collections.Counter(row.split for row in kept)
    usable = [row.facts.sha256 for row in settled if row.facts and not row.facts.reason]
    conflicts = [copy for copy in copies if copy.label != copy.copy_of_label]
    return Examples(
        work=Work(items=len(kept) + len(rejects), reused=len(rows) - new, computed=new),
        found=len(kept) + len(rejects),
        written=len(kept),
        rejected=len(rejects),
        duplicates=len(usable) - len(set(usable)),
        label_conflicts=len(conflicts),
        splits={split: splits[split] for split in SPLITS},
        labels=listing.labels,
        shards=shards,
        warnings=[*describe_copies(copies), *describe_files(kept, listing), *describe_splits(kept, listing.labels)],
    )


def _check_plan(plan: SplitPlan, listing: Listing) -> None:
    if plan.train_per_class and not ("train" in listing.open_splits and len(listing.open_splits) > 1):
        raise UserError(
            f"data.split.train_per_class is {plan.train_per_class}, but the layout of the data fixes its splits: "
            f"remove one of the two."
        )


def settle_rows(
    rows: Sequence[Row], listing: Listing, rules: IngestRules, former: FormerSplits
) -> tuple[list[Row], list[Copy]]:
    """Return rows with the split and label that follow from what is known of them, and the copies among them."""
    index = {text: number for number, text in enumerate(listing.labels)}
    members = [_member(row, former) for row in rows if not (row.facts and row.facts.reason)]
    copies = find_copies(members, "drop" if rules.duplicates == "drop" else "keep")
    dropped = {copy.key for copy in copies if copy.action == "dropped"}
    kept = [member for member in members if member.key not in dropped]
    splits = assign_splits(kept, rules.plan, listing.open_splits)
    settled = [row._replace(split=splits.get(row.file.key, ""), label=index[row.file.text]) for row in rows]
    return settled, copies


def _member(row: Row, former: FormerSplits) -> Member:
    file, sha256 = row.file, row.facts.sha256 if row.facts else f"unread {row.file.key}"
    before = former.by_key.get(file.key) or former.by_sha256.get(sha256, "")
    return Member(file.key, file.text, file.group, sha256, file.split, before)


def write_rows(rows: Sequence[Row], run: RunDir, shards: int, limits: Limits, options: PipelineOptions) -> list[Row]:
    """Bring the shards into line with rows; return these in the shards' order, with the facts of those just read."""
    planned: list[list[Row]] = [[] for _ in range(shards)]
    for row in rows:
        planned[assign_shard(row.file.key, shards)].append(row)
    for shard, members in enumerate(planned):
        members.sort(key=lambda row: encode_text(row.file.key))
        write_index(plan_file(run.examples, shard, shards), members, limits, [])
    with beam.Pipeline(options=options) as pipeline:
        # Only numbers travel: a shard's worker reads its plan and the images itself and writes straight to its files.
        _ = (
            pipeline
            | "List shards" >> beam.Create(range(shards))
            | "Spread shards" >> beam.Reshuffle()
            | "Write example shards" >> beam.ParDo(WriteExampleShard(run.examples, shards, limits))
        )
    written: list[Row] = []
    for shard, members in enumerate(planned):
        plan_file(run.examples, shard, shards).unlink()
        found, _ = read_index(run.examples / index_name(shard, shards), limits)
        # The files stay those of the caller, so that their names are in memory but once.
        written.extend(row._replace(facts=lies.facts, split=lies.split) for row, lies in zip(members, found))
    return written


def describe_rule(plan: SplitPlan) -> str:
    """Return the split rule in words; splits settled under another rule do not bind."""
    train, val, test = (plan.shares[split] for split in SPLITS)
    if plan.train_per_class:
        return f"{plan.train_per_class} a class, then {val:g}/{test:g}, seed {plan.seed}"
    return f"{train:g}/{val:g}/{test:g}, seed {plan.seed}"


def _read_former(run: RunDir, plan: SplitPlan) -> FormerSplits:
    if not run.images.exists():
        return FormerSplits({}, {})
    with open(run.images, encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["rule"] == describe_rule(plan)]
    return FormerSplits({row["path"]: row["split"] for row in rows}, {row["sha256"]: row["split"] for row in rows})


def _write_images(run: RunDir, rows: Iterable[Row], rule: str) -> None:
    def row_of(row: Row) -> list[object]:
        file, facts = row.file, row.facts
        assert facts
        how = "layout" if file.split else rule
        return [file.key, file.text, file.source, row.split, how, facts.format, facts.width, facts.height, facts.sha256]

    write_csv(run.images, COLUMNS, map(row_of, rows))


def _write_copies(run: RunDir, copies: list[Copy], rules: IngestRules) -> None:
    write_csv(run.duplicates, Copy._fields, copies)
    conflict = next((copy for copy in copies if copy.label != copy.copy_of_label), None)
    if conflict and rules.label_conflicts == "fail":
        raise UserError(
            f"'{conflict.copy_of}' and '{conflict.key}' are the same image in two classes and data.label_conflicts is "
            f"fail: remove the wrong one, all are listed in '{run.duplicates}'."
        )
    if copies and rules.duplicates == "fail":
        raise UserError(
            f"'{copies[0].copy_of}' and '{copies[0].key}' are the same image and data.duplicates is fail: "
            f"remove one of them, all are listed in '{run.duplicates}'."
        )


def _check_unchanged(settled: list[Row], written: list[Row]) -> None:
    for row, found in zip(settled, written):
        if row != found:
            raise UserError(f"'{row.file.path}' changed while it was being read: run again when nothing writes to it.")


def _list_rejects(rows: Iterable[Row], listing: Listing, copies: Iterable[Copy]) -> list[Reject]:
    dropped = {copy.key: copy for copy in copies if copy.action == "dropped"}
    rejects = list(listing.rejects)
    for row in rows:
        if row.facts and row.facts.reason:
            rejects.append(Reject(row.file.key, row.facts.reason, row.facts.detail))
        elif row.file.key in dropped:
            rejects.append(Reject(row.file.key, DUPLICATE, f"the same bytes as '{dropped[row.file.key].copy_of}'"))
    return sorted(rejects)


def _check_share(rejects: list[Reject], found: int, max_reject_share: float, run: RunDir) -> None:
    unusable = [reject for reject in rejects if reject.reason != DUPLICATE]
    if len(unusable) > max_reject_share * found:
        first = unusable[0]
        raise UserError(
            f"{len(unusable)} of {found} files are not usable images (the first: '{first.key}', {first.reason}), "
            f"more than data.max_reject_share={max_reject_share} allows: read '{run.rejects}', then mend the files."
        )


def _check_classes(rows: Iterable[Row], labels: Sequence[str]) -> None:
    splits = {row.split for row in rows}
    for split in SPLITS:
        if split not in splits:
            raise UserError(f"The {split} split has no image at all: add images or enlarge data.split.{split}.")
    trained = {row.file.text for row in rows if row.split == "train"}
    for text in labels:
        if text not in trained:
            raise UserError(
                f"Class '{text}' has no readable image in the train split: add images to it or remove its folder."
            )
