"""Ingest: image files to TFRecord shards; every file is read once, and written, rejected or dropped as a copy."""

from __future__ import annotations

import collections
import itertools
import json
import sys
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from components.data.class_names import append_classes, read_labels_file
from components.data.image_file import Listing
from components.errors import DamagedFile, UserError
from components.features import SPLITS
from components.images.formats import Limits
from components.ingest.duplicates import Copy, find_copies
from components.ingest.notes import describe_copies, describe_files, describe_splits
from components.ingest.placement import Planned, place_files
from components.ingest.settings import IngestRules
from components.ingest.split import Member, SplitPlan, assign_splits
from components.ingest.write_shards import WriteExampleShard, remove_begun
from components.outcomes import Examples, Work
from components.rejects import DUPLICATE, Reject
from components.run_dir import RunDir
from components.shards.index import Row, plan_shard, read_index
from components.shards.names import index_name, shard_names
from components.shards.records import list_former
from components.shards.spans import list_shards
from components.storage.files import remove_partials, write_json, write_text
from components.storage.ownership import claim_files, remove_written
from components.storage.places import list_files, make_folder
from components.storage.tables import scan_csv, write_csv
from components.terminal.progress import Progress

COLUMNS = ("path", "label", "source", "split", "rule", "format", "width", "height", "sha256")


class FormerSplits(NamedTuple):
    """The splits that an earlier run of the same rule settled, by key and, for files since renamed, by SHA-256."""

    by_key: dict[str, str]
    by_sha256: dict[str, str]


def ingest_images(
    listing: Listing,
    rules: IngestRules,
    shards: int | None,
    seed: int,
    run: RunDir,
    options: PipelineOptions,
    progress: Progress,
) -> Examples:
    """Write shards, labels.txt, images.csv, rejects.jsonl and duplicates.csv of a listing, reading what is new in it.

    shards is the number of shards of the first span, None for one that suits the data; seed is that of the splits.
    Raises UserError when too much of it is unusable, or when copies are there and the rules forbid them.
    """
    plan = SplitPlan(rules.split.fractions, rules.split.train_per_class, seed)
    _check_plan(plan, listing)
    make_folder(run.examples)
    remove_partials(run.examples)
    former, drop = _read_former(run, plan), rules.duplicates == "drop"
    planned, spans, stay = place_files(listing.files, run, shards, rules.limits)
    claim_files(run.examples, list_artifacts(run, spans))
    if stay and not listing.ordered:
        # Records that stay hold the numbers of their classes: new classes come behind those.
        before = read_labels_file(str(run.labels)) if run.labels.exists() else []
        listing = listing._replace(labels=append_classes(listing.labels, before))
    unread = [row.file for row in _flatten(planned) if row.facts is None]
    with progress.watch_folder(run.examples, sum(file.size for file in unread), len(unread), "images"):
        # By what is known before reading; where no file turns out to be damaged or a copy, it stays as it is.
        planned, _ = settle_rows(planned, listing, plan, drop, former)
        written = write_rows(planned, spans, run, rules.limits, options)
        planned, copies = settle_rows(written, listing, plan, drop, former)
        _write_copies(run, copies, rules)
        if planned != written:
            written = write_rows(planned, spans, run, rules.limits, options)
    settled, new = _flatten(planned), len(unread)
    _check_unchanged(settled, _flatten(written))
    remove_written(run.examples, keep=list_artifacts(run, spans))
    remove_begun(run.examples)
    if not {name for shard in planned for name in shard_names(shard)} <= list_files(run.examples).keys():
        raise UserError(f"Shards vanished from '{run.examples}' as they were written: run again, which mends that.")

    rejects = _list_rejects(settled, listing, copies)
    write_text(run.rejects, "".join(f"{json.dumps(reject._asdict())}\n" for reject in rejects))
    write_text(run.labels, "".join(f"{text}\n" for text in listing.labels))
    kept = sorted(row for row in settled if row.split)
    if len(kept) + len(rejects) != len(listing.files) + len(listing.rejects):
        raise RuntimeError(
            f"ingest accounts for {len(kept) + len(rejects)} of {len(listing.files) + len(listing.rejects)} files"
        )
    _write_images(run, kept, describe_rule(plan))
    _check_share(rejects, len(kept) + len(rejects), rules.max_reject_share, run)
    _check_classes(kept, listing, plan)
    splits = collections.Counter(row.split for row in kept)
    images = collections.Counter(row.file.text for row in kept)
    usable = [row.facts.sha256 for row in settled if row.facts and not row.facts.reason]
    conflicts = [copy for copy in copies if copy.label != copy.copy_of_label]
    return Examples(
        work=Work(items=len(kept) + len(rejects), reused=len(settled) - new, computed=new),
        found=len(kept) + len(rejects),
        written=len(kept),
        rejected=len(rejects),
        duplicates=len(usable) - len(set(usable)),
        label_conflicts=len(conflicts),
        splits={split: splits[split] for split in SPLITS},
        labels=listing.labels,
        shards=spans,
        warnings=[
            *listing.notes,
            *describe_copies(copies),
            *describe_files(kept, listing),
            *describe_splits(kept, listing.labels),
        ],
        images={text: images[text] for text in listing.labels},
    )


def _check_plan(plan: SplitPlan, listing: Listing) -> None:
    if plan.train_per_class and not ("train" in listing.open_splits and len(listing.open_splits) > 1):
        raise UserError(
            f"data.split.train_per_class is {plan.train_per_class}, but the layout of the data fixes its splits: "
            f"remove one of the two."
        )


def _flatten(planned: Planned) -> list[Row]:
    return [*itertools.chain(*planned.values())]


def settle_rows(
    planned: Planned, listing: Listing, plan: SplitPlan, drop: bool, former: FormerSplits
) -> tuple[Planned, list[Copy]]:
    """Return rows with the split and label that follow from their facts, and the copies among them, dropped or kept."""
    index = {text: number for number, text in enumerate(listing.labels)}
    members = [_member(row, former) for row in _flatten(planned) if not (row.facts and row.facts.reason)]
    copies = find_copies(members, "drop" if drop else "keep")
    dropped = {copy.key for copy in copies if copy.action == "dropped"}
    kept = [member for member in members if member.key not in dropped]
    splits = assign_splits(kept, plan, listing.open_splits)
    settled = {
        shard: [row._replace(split=splits.get(row.file.key, ""), label=index[row.file.text]) for row in rows]
        for shard, rows in planned.items()
    }
    return settled, copies


def _member(row: Row, former: FormerSplits) -> Member:
    file, sha256 = row.file, row.facts.sha256 if row.facts else f"unread {row.file.key}"
    before = former.by_key.get(file.key) or former.by_sha256.get(sha256, "")
    return Member(file.key, file.text, file.group, sha256, file.split, before)


def write_rows(
    planned: Planned, spans: Sequence[int], run: RunDir, limits: Limits, options: PipelineOptions
) -> Planned:
    """Bring the shards of spans into line with their rows; return these with the facts of those just read.

    A shard that holds what it should is left alone.
    """
    there = list_files(run.examples)  # asked for once: each file alone takes an object store a round trip
    changed = [shard for shard, rows in planned.items() if plan_shard(run.examples, shard, rows, limits, there)]
    # Now that their plans are there: whatever ends this run, the next one finds each image in its place.
    write_json(run.spans, spans)
    if changed:
        former = list_former(run.examples, spans)
        with beam.Pipeline(options=options) as pipeline:
            # Only numbers travel: a shard's worker reads its plan and the images and writes straight to its files.
            _ = (
                pipeline
                | "List shards" >> beam.Create([tuple(shard) for shard in changed])
                | "Spread shards" >> beam.Reshuffle()
                | "Write example shards" >> beam.ParDo(WriteExampleShard(run.examples, former, limits))
            )
    written = {**planned}
    for shard in changed:
        index = run.examples / index_name(shard)
        found, _ = read_index(index, limits)
        if [row.file.key for row in found] != [row.file.key for row in planned[shard]]:
            raise DamagedFile(str(index))
        # The files stay those of the caller, so that their names are in memory but once.
        written[shard] = [
            row._replace(facts=lies.facts, split=lies.split) for row, lies in zip(planned[shard], found, strict=True)
        ]
    return written


def list_artifacts(run: RunDir, spans: Sequence[int]) -> list[str]:
    """Return the names of all files that ingest leaves in examples/."""
    tables = (run.labels, run.rejects, run.duplicates, run.images, run.spans)
    shards = [name for shard in list_shards(spans) for name in (index_name(shard), *shard_names(shard))]
    return [*(table.name for table in tables), *shards]


def describe_rule(plan: SplitPlan) -> str:
    """Return the split rule in words; splits settled under another rule do not bind."""
    train, val, test = (plan.shares[split] for split in SPLITS)
    if plan.train_per_class:
        return f"{plan.train_per_class} a class, then {val:g}/{test:g}, seed {plan.seed}"
    return f"{train:g}/{val:g}/{test:g}, seed {plan.seed}"


def _read_former(run: RunDir, plan: SplitPlan) -> FormerSplits:
    if not run.images.exists():
        return FormerSplits({}, {})
    rule, former = describe_rule(plan), FormerSplits({}, {})
    for row in scan_csv(run.images):
        if row["rule"] == rule:
            former.by_key[row["path"]] = former.by_sha256[row["sha256"]] = sys.intern(row["split"])
    return former


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
    for row, found in zip(settled, written, strict=True):
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
            f"{len(unusable)} of {found} files are not usable images (the first: '{first.key}', {first.reason}, "
            f"{first.detail}), "
            f"more than data.max_reject_share={max_reject_share} allows: read '{run.rejects}', then mend the files."
        )


def _check_classes(rows: Sequence[Row], listing: Listing, plan: SplitPlan) -> None:
    splits = {row.split for row in rows}
    for split in SPLITS:
        if split not in splits:
            raise UserError(f"The {split} split has no image at all{_explain_lack(rows, listing, plan)}.")
    trained = {row.file.text for row in rows if row.split == "train"}
    for text in listing.labels:
        if text not in trained:
            raise UserError(
                f"Class '{text}' has no readable image in the train split: add images to it or remove its folder."
            )


def _explain_lack(rows: Sequence[Row], listing: Listing, plan: SplitPlan) -> str:
    """Return why a split is empty, which assign_splits fills from any class with as many images as there are splits."""
    apart: dict[str, set[str]] = collections.defaultdict(set)
    for row in rows:
        if row.facts and not row.file.split:
            apart[row.file.text].add(row.file.group or row.facts.sha256)
    if not rows:
        return ": no file is a usable image"
    if not apart:
        return ", and the data fixes the splits of all others: add images to it, or leave some without a split"
    largest = max(apart, key=lambda text: len(apart[text]))
    needed = len(listing.open_splits) - 1 + (plan.train_per_class or 1)
    return (
        f": a class of {needed} images can have one in each of {', '.join(listing.open_splits)} (copies and images of "
        f"one group count as one), but the largest, '{largest}', has {len(apart[largest])}: add images to it"
    )
