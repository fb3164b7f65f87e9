"""Extract: the backbone over every example shard, computing only the bottlenecks that no earlier run has left."""

from __future__ import annotations

import functools
import itertools
import json
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import apache_beam as beam
import numpy as np
from apache_beam.metrics import Metrics
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.utils.shared import Shared

from components import features
from components.backbone import Backbone, prepare_backbone, write_imported
from components.catalog import Spec, has_network
from components.engine_choice import Closeness, settle_engine
from components.engines import BATCH_SIZE, BATCHES_IN_FLIGHT, Engine, load_engine
from components.errors import DamagedShard, UserError
from components.features import (
    AUTO,
    SPLITS,
    TENSORFLOW,
    Bottlenecks,
    Examples,
    RunDir,
    Shard,
    Work,
    index_name,
    parse_shard,
    shard_name,
)
from components.file_index import measure_shard, read_index
from components.files import PARTIAL, remove_partials, write_text
from components.imported_bottlenecks import ImportedBottlenecks
from components.places import make_folder
from components.progress import Progress
from components.sharding import list_shards
from components.shards import (
    IMAGE_SPEC,
    BottleneckTable,
    bytes_feature,
    find_overlapping,
    float_feature,
    int_feature,
    read_batches,
    read_bottlenecks,
    serialize_record,
    writing_shards,
)
from components.views import Augment, list_views, serve_views

# Bytes of a bottleneck record beside its floats, for the progress bar.
RECORD_OVERHEAD = 250


class ShardOutcome(NamedTuple):
    """What one shard took: images whose bottlenecks were taken over, and were computed; or the damaged file."""

    reused: int
    computed: int
    damaged: str = ""


class ExtractShard(beam.DoFn):
    """Turns one of the shards of examples into the bottleneck files of its three splits; yields a ShardOutcome.

    Files that hold what they should are left alone.
    """

    def __init__(
        self,
        examples: Path,
        bottlenecks: Path,
        backbone_folder: Path,
        engine: str,
        dim: int,
        shards: Sequence[int],
        augment: Augment,
        shared: Shared,
        imported: ImportedBottlenecks | None,
    ):
        self._examples = examples
        self._bottlenecks = bottlenecks
        self._backbone_folder = backbone_folder
        self._engine = engine
        self._dim = dim
        self._shards = shards
        self._views = list_views(augment)
        self._average = augment.average
        self._shared = shared
        self._imported = imported
        self._reused = Metrics.counter("extract", "reused")
        self._computed = Metrics.counter("extract", "computed")

    def process(self, numbers: tuple[int, int, int]) -> Iterator[ShardOutcome]:
        try:
            outcome = self._extract(Shard(*numbers))
        except DamagedShard as damaged:  # as an outcome: Beam would make a RuntimeError of it
            outcome = ShardOutcome(0, 0, damaged.path)
        self._reused.inc(outcome.reused)
        self._computed.inc(outcome.computed)
        yield outcome

    def _extract(self, shard: Shard) -> ShardOutcome:
        tables = read_tables(self._bottlenecks, shard, self._shards, self._dim, len(self._views))
        own = [tables.get(shard_name(split, shard)) for split in SPLITS]
        if is_complete(own, list_examples(self._examples, shard), self._average):
            return ShardOutcome(sum(len(table.keys) for table in own if table), 0)
        known = {sha256: views for table in tables.values() for sha256, views in zip(table.sha256, table.views)}
        reused = computed = 0
        with writing_shards(self._bottlenecks, shard) as write:
            for batch in self._complete(read_shard(self._examples, shard), known):
                for split, record, vector in zip(batch.splits, batch.records, batch.vectors):
                    write[split](bottleneck_record(record, vector, serve_views(vector, self._average)))
                computed += batch.computed
                reused += len(batch.records) - batch.computed
        return ShardOutcome(reused, computed)

    def _complete(self, records: Iterable[tuple[str, dict]], known: dict[bytes, np.ndarray]) -> Iterator[_Completed]:
        pending: deque[Future[_Completed]] = deque()
        rows = iter(records)
        with ThreadPoolExecutor(BATCHES_IN_FLIGHT) as pool:
            while batch := list(itertools.islice(rows, max(BATCH_SIZE // len(self._views), 1))):
                pending.append(pool.submit(self._complete_batch, batch, known))
                if len(pending) > BATCHES_IN_FLIGHT:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()

    def _complete_batch(self, batch: list[tuple[str, dict]], known: dict[bytes, np.ndarray]) -> _Completed:
        splits, records = zip(*batch)
        missing = [record for record in records if record[features.SHA256] not in known]
        computed = iter(self._compute(missing) if missing else ())
        vectors = [known[r[features.SHA256]] if r[features.SHA256] in known else next(computed) for r in records]
        return _Completed(splits, records, vectors, len(missing))

    def _compute(self, records: list[dict]) -> np.ndarray:
        if self._imported:
            keys = [record[features.KEY].decode("utf-8", "surrogateescape") for record in records]
            return self._imported.find_vectors(keys)[:, None]
        # Loaded on the first miss, once a process: a run that finds every bottleneck needs no backbone.
        load = functools.partial(load_engine, self._engine, self._backbone_folder)
        engine: Engine = self._shared.acquire(load, tag=f"{self._engine} {self._backbone_folder}")
        vectors = engine.compute_bottlenecks([record[features.ENCODED] for record in records], self._views)
        return vectors.reshape(len(records), len(self._views), self._dim)


class _Completed(NamedTuple):
    splits: tuple[str, ...]
    records: tuple[dict, ...]
    vectors: list[np.ndarray]
    computed: int


def read_shard(examples: Path, shard: Shard) -> Iterator[tuple[str, dict]]:
    """Yield (split, parsed record) of one shard, split by split, sorted by key within each."""
    for split in SPLITS:
        for batch in read_batches([str(examples / shard_name(split, shard))], IMAGE_SPEC):
            for row in range(len(batch[features.KEY])):
                yield split, {name: column[row] for name, column in batch.items()}


def list_examples(examples: Path, shard: Shard) -> list[list[tuple]] | None:
    """Return what identifies each record of a shard, split by split, from its index; None where that does not know."""
    rows, sizes = read_index(examples / index_name(shard))
    if not sizes or sizes != measure_shard(examples, shard):
        return None
    records: dict[str, list[tuple]] = {split: [] for split in SPLITS}
    for row in rows:
        if row.split and row.facts:
            file = row.file
            records[row.split].append((file.key, row.facts.sha256.encode(), row.label, file.text, file.source))
    return [*records.values()]


def is_complete(own: Sequence[BottleneckTable | None], records: list[list[tuple]] | None, average: bool) -> bool:
    """Tell whether the bottlenecks of a shard's splits are those of its records, and served as average has it."""
    if records is None:
        return False
    for table, expected in zip(own, records):
        if table is None or expected != [
            *zip(table.keys, table.sha256, table.labels.tolist(), table.texts, table.sources)
        ]:
            return False
        if table.views.shape[1] > 1 and any(
            not np.array_equal(vector, serve_views(views, average)) for vector, views in zip(table.vectors, table.views)
        ):
            return False
    return True


def read_tables(folder: Path, shard: Shard, shards: Sequence[int], dim: int, views: int) -> dict[str, BottleneckTable]:
    """Return by their names the bottleneck files, of any split, that can hold an image of a shard."""
    tables: dict[str, BottleneckTable] = {}
    for file in find_overlapping(folder, shard, shards):
        # The bottlenecks of a damaged file are computed again and it is replaced.
        with suppress(DamagedShard):
            tables[file.name] = read_bottlenecks([str(file)], dim, views)
    return tables


def bottleneck_record(record: dict, views: np.ndarray, vector: np.ndarray) -> bytes:
    """Serialize the bottlenecks of an image record, with all that is known of the image but its bytes.

    vector float32[D] is the one that evaluation and serving see; views float32[V, D] are kept where there are several.
    """
    others = {features.BOTTLENECK_VIEWS: float_feature(views.ravel())} if len(views) > 1 else {}
    return serialize_record(
        {
            features.BOTTLENECK: float_feature(vector),
            **others,
            features.KEY: bytes_feature(record[features.KEY]),
            features.SHA256: bytes_feature(record[features.SHA256]),
            features.LABEL: int_feature(record[features.LABEL]),
            features.TEXT: bytes_feature(record[features.TEXT]),
            features.SOURCE: bytes_feature(record[features.SOURCE]),
        }
    )


def extract_bottlenecks(
    examples: Examples,
    source: tuple[Backbone, ImportedBottlenecks | None],
    engine: str,
    closeness: Closeness,
    augment: Augment,
    run: RunDir,
    options: PipelineOptions,
    progress: Progress,
) -> Bottlenecks:
    """Write a bottleneck shard for every example shard, from what open_source returns; raises UserError.

    Engine auto takes the fastest whose bottlenecks are close enough to those of TensorFlow in float32.
    """
    backbone, imported = source
    views = list_views(augment)
    if imported and len(views) > 1:
        raise UserError(
            "augment asks for views of images, ready-made bottlenecks have one: remove the section augment."
        )
    if imported:
        engine = TENSORFLOW
    elif engine == AUTO:
        engine = settle_engine(examples, backbone, closeness, run)
    folder = run.bottlenecks(backbone.id, engine, augment.name)
    make_folder(folder)
    remove_partials(folder)
    outcome_file = folder / f"outcome.json{PARTIAL}"
    backbone_folder = run.backbones / backbone.id
    extract = ExtractShard(
        run.examples, folder, backbone_folder, engine, backbone.dim, examples.shards, augment, Shared(), imported
    )
    vectors = 1 if len(views) == 1 else 1 + len(views)
    size = examples.written * (4 * backbone.dim * vectors + RECORD_OVERHEAD)
    watch = progress.watch_folder(folder, size, examples.written, "images")
    with watch, beam.Pipeline(options=options) as pipeline:
        _ = (
            pipeline
            | "List shards" >> beam.Create([tuple(shard) for shard in list_shards(examples.shards)])
            | "Spread shards" >> beam.Reshuffle()
            | "Extract shards" >> beam.ParDo(extract)
            | "Collect outcomes" >> beam.combiners.ToList()
            | "Write outcome" >> beam.Map(lambda outcomes: write_text(outcome_file, json.dumps(outcomes)))
        )
    outcomes = [ShardOutcome(*row) for row in json.loads(outcome_file.read_text(encoding="utf-8"))]
    outcome_file.unlink()
    for damaged in (outcome.damaged for outcome in outcomes if outcome.damaged):
        raise DamagedShard(damaged)
    current = {*list_shards(examples.shards)}
    for file in folder.glob("*.tfrecord"):
        if parse_shard(file.name) not in current:
            file.unlink()
    return Bottlenecks(
        work=Work(
            items=examples.written,
            reused=sum(outcome.reused for outcome in outcomes),
            computed=sum(outcome.computed for outcome in outcomes),
        ),
        backbone_name=backbone.name,
        backbone_id=backbone.id,
        dim=backbone.dim,
        engine=engine,
        views=augment.name,
        view_count=len(views),
        average=augment.average,
    )


def open_source(specs: Sequence[Spec], folder: Path, progress: Progress) -> tuple[Backbone, ImportedBottlenecks | None]:
    """Return the prepared backbone, and the ready-made bottlenecks where the spec brings some."""
    if not specs[0].bottlenecks:
        return prepare_backbone(specs, folder, progress), None
    if len(specs) > 1:
        raise UserError("backbone.bottlenecks stands in a list: ready-made bottlenecks can only be used alone.")
    imported = ImportedBottlenecks(specs[0])
    network = prepare_backbone(specs, folder, progress) if has_network(specs[0]) else None
    if network and network.dim != imported.dim:
        raise UserError(
            f"The bottlenecks in '{specs[0].bottlenecks}' are {imported.dim} wide, those of '{network.name}' "
            f"{network.dim}: name the backbone that they came from, or none."
        )
    return write_imported(specs[0].title, imported, network, folder), imported
