"""Ingest: image files to TFRecord shards. Every file is read once, and written, rejected or dropped as a copy."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace

import apache_beam as beam
import numpy as np
from apache_beam.options.pipeline_options import PipelineOptions

from components.data.class_names import append_classes, read_labels_file
from components.data.columns import Words
from components.data.image_list import Listing
from components.errors import DamagedFile, UserError
from components.features import SPLIT_CODES, SPLITS
from components.images.formats import Limits
from components.ingest.checks import check_classes, check_plan, check_rejects, check_written
from components.ingest.duplicates import DROPPED, Copy, Members, find_copies, number_contents
from components.ingest.former_splits import Former, read_former
from components.ingest.notes import describe_findings
from components.ingest.placement import Planned, find_differences, place_files
from components.ingest.settings import IngestRules
from components.ingest.split import SplitPlan, assign_splits
from components.ingest.write_shards import WriteExampleShard, remove_markers
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
from components.storage.tables import write_csv
from components.terminal.progress import Progress

IMAGES_COLUMNS = ("path", "label", "source", "split", "rule", "format", "width", "height", "sha256")


def ingest_images(
    listing: Listing,
    rules: IngestRules,
    shards: int | None,
    seed: int,
    run: RunDir,
    options: PipelineOptions,
    progress: Progress,
) -> Examples:
    """Write shards, labels.txt, images.csv, rejects.jsonl and duplicates.csv of a listing, and return their counts.

    shards is the number of shards of the first span, None for one that suits the data; seed is that of the splits.
    Only new and changed files are read. Raises UserError if too many files are unusable, if a class or split has no
    image, or for copies that the rules forbid.
    """
    plan = SplitPlan(rules.split.fractions, rules.split.train_per_class, seed)
    check_plan(plan, listing)
    make_folder(run.examples)
    remove_partials(run.examples)
    former = read_former(run, describe_rule(plan))
    planned, stay = place_files(listing.files, run, shards, rules.limits)
    claim_files(run.examples, list_artifacts(run, planned.spans))
    if stay and not listing.ordered:
        # Existing records have the numbers of their classes, so new classes come after those.
        before = read_labels_file(str(run.labels)) if run.labels.exists() else []
        listing = listing._replace(labels=append_classes(listing.labels, before))
    unread = ~planned.facts.is_read
    new = int(unread.sum())
    with progress.watch_folder(run.examples, int(listing.files.sizes[unread].sum()), new, "images"):
        # The first plan knows only earlier facts. It stays as it is if no new file is damaged or a copy.
        planned, _ = resolve_rows(planned, listing, plan, rules.duplicates, former)
        written = write_rows(planned, run, rules.limits, options)
        planned, copies = resolve_rows(written, listing, plan, rules.duplicates, former)
        _write_copies(run, copies, rules)
        if len(find_differences(planned, written)):
            written = write_rows(planned, run, rules.limits, options)
    check_written(planned, written, run)
    remove_written(run.examples, keep=list_artifacts(run, planned.spans))
    remove_markers(run.examples)

    rejects = _list_rejects(planned, listing, copies)
    kept = planned.find_kept()
    found = len(listing.files) + len(listing.rejects)
    if len(kept) + len(rejects) != found:
        raise RuntimeError(f"ingest accounts for {len(kept) + len(rejects)} of {found} files")
    _write_tables(run, listing.labels, rejects, planned, describe_rule(plan))
    check_rejects(rejects, found, rules.max_reject_share, run)
    check_classes(planned, listing, plan)
    splits, images = planned.splits.count(), planned.files.texts.take(kept).count()
    return Examples(
        work=Work(items=found, reused=len(listing.files) - new, computed=new),
        found=found,
        written=len(kept),
        rejected=len(rejects),
        duplicates=len(copies),
        label_conflicts=sum(copy.label != copy.copy_of_label for copy in copies),
        splits={split: splits.get(split, 0) for split in SPLITS},
        labels=listing.labels,
        shards=planned.spans,
        warnings=[*listing.notes, *describe_findings(planned, listing, copies)],
        images={text: images.get(text, 0) for text in listing.labels},
    )


def resolve_rows(
    planned: Planned, listing: Listing, plan: SplitPlan, policy: str, former: Former
) -> tuple[Planned, list[Copy]]:
    """Return rows with the split and label that follow from their facts, and the copies among them, sorted.

    Under the policy drop, copies in a class get no split.
    """
    facts, files = planned.facts, planned.files
    usable = facts.find_usable()
    members = Members(
        files=files,
        digests=facts.digests,
        contents=number_contents(facts.digests, facts.is_read & usable),
        fixed=files.splits.recode(SPLIT_CODES),
        formers=former.find(files, facts),
    )
    copies = find_copies(members, np.flatnonzero(usable), policy)
    usable[[row for row, copy in copies.items() if copy.action == DROPPED]] = False
    splits = assign_splits(members, np.flatnonzero(usable), plan, listing.open_splits)
    labels = files.texts.recode(listing.labels)
    return replace(planned, splits=Words(splits, SPLIT_CODES), labels=labels), sorted(copies.values())


def write_rows(planned: Planned, run: RunDir, limits: Limits, options: PipelineOptions) -> Planned:
    """Write the shards that differ from their rows, and return all rows, with the facts of the images just read.

    Raises DamagedFile if an index does not have the rows that were planned.
    """
    present = list_files(run.examples)  # one request: on an object store each file would take a round trip
    changed = [
        (shard, numbers)
        for shard, numbers, rows in planned.read_shards()
        if plan_shard(run.examples, shard, rows, limits, present)
    ]
    # Written after the plans: if this run is interrupted, the next one finds each image in its shard.
    write_json(run.spans, planned.spans)
    if changed:
        former = list_former(run.examples, planned.spans)
        with beam.Pipeline(options=options) as pipeline:
            # Beam moves only numbers: the worker of a shard reads its plan and the images, and writes its files.
            _ = (
                pipeline
                | "List shards" >> beam.Create([tuple(shard) for shard, _ in changed])
                | "Spread shards" >> beam.Reshuffle()
                | "Write example shards" >> beam.ParDo(WriteExampleShard(run.examples, former, limits))
            )
    facts, splits = planned.facts.copy(), planned.splits.codes.copy()
    for shard, numbers in changed:
        index = run.examples / index_name(shard)
        found, _ = read_index(index, limits)
        if [row.file.key for row in found] != [*planned.files.read_keys(numbers)]:
            raise DamagedFile(str(index))
        for number, row in zip(numbers.tolist(), found, strict=True):
            if row.facts:
                facts[number] = row.facts
            splits[number] = SPLIT_CODES.index(row.split)
    return replace(planned, facts=facts, splits=Words(splits, SPLIT_CODES))


def list_artifacts(run: RunDir, spans: Sequence[int]) -> list[str]:
    """Return the names of all files that ingest leaves in examples/."""
    tables = (run.labels, run.rejects, run.duplicates, run.images, run.spans)
    shards = [name for shard in list_shards(spans) for name in (index_name(shard), *shard_names(shard))]
    return [*(table.name for table in tables), *shards]


def describe_rule(plan: SplitPlan) -> str:
    """Return the text of the split rule in images.csv; the splits of an earlier run stay only under the same text."""
    train, val, test = (plan.fractions[split] for split in SPLITS)
    if plan.train_per_class:
        return f"{plan.train_per_class} a class, then {val:g}/{test:g}, seed {plan.seed}"
    return f"{train:g}/{val:g}/{test:g}, seed {plan.seed}"


def _write_tables(run: RunDir, labels: Sequence[str], rejects: Iterable[Reject], planned: Planned, rule: str) -> None:
    def list_cells(row: Row) -> list[object]:
        file, facts = row.file, row.facts
        assert facts
        by = "layout" if file.split else rule
        return [file.key, file.text, file.source, row.split, by, facts.format, facts.width, facts.height, facts.sha256]

    write_text(run.rejects, "".join(f"{json.dumps(reject._asdict())}\n" for reject in rejects))
    write_text(run.labels, "".join(f"{text}\n" for text in labels))
    write_csv(run.images, IMAGES_COLUMNS, map(list_cells, planned.read(planned.find_kept())))


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


def _list_rejects(planned: Planned, listing: Listing, copies: Iterable[Copy]) -> list[Reject]:
    dropped = [copy for copy in copies if copy.action == DROPPED]
    return sorted(
        [
            *listing.rejects,
            *(
                Reject(planned.files[row].key, facts.reason, facts.detail)
                for row, facts in planned.facts.rejects.items()
            ),
            *(Reject(copy.key, DUPLICATE, f"the same bytes as '{copy.copy_of}'") for copy in dropped),
        ]
    )
