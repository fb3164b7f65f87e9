"""Write bottleneck shards from example shards, computing only bottlenecks that no earlier run has written."""

from __future__ import annotations

import functools
import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import apache_beam as beam
import numpy as np
from apache_beam.metrics import Metrics
from apache_beam.utils.shared import Shared

from components import features
from components.backbones.engines import BATCHES_IN_FLIGHT, EXTRACTION_BATCH_SIZE, Engine, load_engine
from components.backbones.precomputed import ImportedBottlenecks
from components.backbones.settings import Augment
from components.backbones.views import list_views, serve_views
from components.errors import DamagedFile, DamagedShard
from components.features import SPLITS
from components.outcomes import Bottlenecks
from components.run_dir import RunDir
from components.shards.bottlenecks import BottleneckTable, read_bottlenecks
from components.shards.index import read_index
from components.shards.names import Shard, index_name, shard_name, shard_names
from components.shards.records import (
    IMAGE_SPEC,
    META_SPEC,
    bytes_feature,
    find_overlapping,
    float_feature,
    int_feature,
    read_batches,
    serialize_record,
    writing_shards,
)
from components.storage.places import read_status


class ShardOutcome(NamedTuple):
    """Number of images of one shard with reused and with computed bottlenecks; or the damaged file."""

    reused: int
    computed: int
    damaged: str = ""


class ExtractShard(beam.DoFn):
    """Turns one shard of examples into the bottleneck files of its three splits; yields a ShardOutcome.

    Complete files are not written again; former are the names of bottleneck files of other spans.
    """

    def __init__(
        self,
        run: RunDir,
        bottlenecks: Bottlenecks,
        former: Sequence[str],
        augment: Augment,
        shared: Shared,
        imported: ImportedBottlenecks | None,
    ):
        self._examples = run.examples
        self._bottlenecks = bottlenecks.folder(run)
        self._backbone_folder = run.backbones / bottlenecks.backbone_id
        test_engine = bottlenecks.test_engine or bottlenecks.engine
        self._engines = dict.fromkeys(SPLITS, bottlenecks.engine) | {"test": test_engine}
        self._dim = bottlenecks.dim
        self._former = former
        self._views = list_views(augment)
        self._average = augment.average
        self._shared = shared
        self._imported = imported
        self._reused = Metrics.counter("extract", "reused")
        self._computed = Metrics.counter("extract", "computed")

    def process(self, numbers: tuple[int, int, int]) -> Iterator[ShardOutcome]:
        try:
            outcome = self._extract(Shard(*numbers))
        except DamagedFile as damaged:  # as an outcome: Beam would turn it into a RuntimeError
            outcome = ShardOutcome(0, 0, damaged.path)
        self._reused.inc(outcome.reused)
        self._computed.inc(outcome.computed)
        yield outcome

    def _extract(self, shard: Shard) -> ShardOutcome:
        tables = read_tables(self._bottlenecks, shard, self._former, self._dim, len(self._views))
        own = [tables.get(name) for name in shard_names(shard)]
        expected = list_identities(self._examples, shard)
        if is_complete(own, expected, self._average):
            return ShardOutcome(sum(len(table.keys) for table in own if table), 0)
        known = {
            (self._engines[name.partition("-")[0]], sha256): views
            for name, table in tables.items()
            for sha256, views in zip(table.sha256, table.views, strict=True)
        }
        reused = computed = 0
        written = dict.fromkeys(SPLITS, 0)
        with writing_shards(self._bottlenecks, shard) as write:
            for batch in self._complete(read_shard(self._examples, shard), known):
                for split, record, vector in zip(batch.splits, batch.records, batch.vectors, strict=True):
                    write[split](bottleneck_record(record, vector, serve_views(vector, self._average)))
                    written[split] += 1
                computed += batch.computed
                reused += len(batch.records) - batch.computed
            for split, records in zip(SPLITS, expected, strict=True):
                if written[split] != len(records):  # cut off between two records, where no checksum is wrong
                    raise DamagedShard(str(self._examples / shard_name(split, shard)))
        return ShardOutcome(reused, computed)

    def _complete(self, records: Iterable[tuple[str, dict]], known: Known) -> Iterator[_Completed]:
        pending: deque[Future[_Completed]] = deque()
        rows = iter(records)
        with ThreadPoolExecutor(BATCHES_IN_FLIGHT) as pool:
            while batch := list(itertools.islice(rows, max(EXTRACTION_BATCH_SIZE // len(self._views), 1))):
                pending.append(pool.submit(self._complete_batch, batch, known))
                if len(pending) > BATCHES_IN_FLIGHT:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()

    def _complete_batch(self, batch: list[tuple[str, dict]], known: Known) -> _Completed:
        splits, records = zip(*batch, strict=True)
        keys = [(self._engines[split], record[features.SHA256]) for split, record in batch]
        vectors = {row: known[key] for row, key in enumerate(keys) if key in known}
        computed = len(keys) - len(vectors)
        for engine in dict.fromkeys(self._engines.values()):
            rows = [row for row, key in enumerate(keys) if key[0] == engine and key not in known]
            vectors |= zip(rows, self._compute([records[row] for row in rows], engine), strict=True)
        return _Completed(splits, records, [vectors[row] for row in range(len(keys))], computed)

    def _compute(self, records: list[dict], name: str) -> Sequence[np.ndarray]:
        if not records:
            return []
        if self._imported:
            keys = [record[features.KEY].decode("utf-8", "surrogateescape") for record in records]
            return [*self._imported.find_vectors(keys)[:, None]]
        # Loaded on the first miss, once per process: a run that finds every bottleneck needs no backbone.
        load = functools.partial(load_engine, name, self._backbone_folder)
        engine: Engine = self._shared.acquire(load, tag=f"{name} {self._backbone_folder}")
        vectors = engine.compute_bottlenecks([record[features.ENCODED] for record in records], self._views)
        return [*vectors.reshape(len(records), len(self._views), self._dim)]


# Bottlenecks float32[V, D] by engine and checksum of the image.
Known = dict[tuple[str, bytes], np.ndarray]


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


def list_identities(examples: Path, shard: Shard) -> list[list[tuple]]:
    """Return (key, sha256, label, text, source) per record of a shard, split by split, from its index.

    Raises DamagedFile for an index or shard file that is not as it was written.
    """
    index = examples / index_name(shard)
    rows, sizes = read_index(index)
    if len(sizes) != len(SPLITS):
        raise DamagedFile(str(index))
    for name, size in zip(shard_names(shard), sizes, strict=True):
        shard_file = examples / name
        if not shard_file.exists() or read_status(shard_file).size != size:
            raise DamagedShard(str(shard_file))
    records: dict[str, list[tuple]] = {split: [] for split in SPLITS}
    for row in rows:
        if row.split and row.facts:
            file = row.file
            records[row.split].append((file.key, row.facts.sha256.encode(), row.label, file.text, file.source))
    return [*records.values()]


def is_complete(own: Sequence[BottleneckTable | None], records: Sequence[list[tuple]], average: bool) -> bool:
    """Tell whether a shard's splits have the bottlenecks of its records, with the served one as `average` says."""
    for table, expected in zip(own, records, strict=True):
        if table is None:
            return False
        columns = table.keys, table.sha256, table.labels.tolist(), table.texts, table.sources
        if expected != [*zip(*columns, strict=True)]:
            return False
        if table.views.shape[1] > 1:
            served = np.reshape([serve_views(views, average) for views in table.views], table.vectors.shape)
            if not np.array_equal(table.vectors, served):
                return False
    return True


def read_tables(folder: Path, shard: Shard, former: Sequence[str], dim: int, views: int) -> dict[str, BottleneckTable]:
    """Return by file name the bottlenecks, of any split, in files that can have an image of a shard."""
    tables: dict[str, BottleneckTable] = {}
    for file in find_overlapping(folder, shard, former):
        with suppress(DamagedShard):  # its bottlenecks are computed again
            tables[file.name] = read_bottlenecks([str(file)], dim, views)
    return tables


def bottleneck_record(record: dict, views: np.ndarray, vector: np.ndarray) -> bytes:
    """Serialize the bottlenecks of an image record, with the record's other fields except the image bytes.

    vector float32[D] is the served one; views float32[V, D] are written where there are several.
    """
    kept = {name: bytes_feature(record[name]) for name in META_SPEC if name != features.LABEL}
    if len(views) > 1:
        kept[features.BOTTLENECK_VIEWS] = float_feature(views.ravel())
    label = int_feature(record[features.LABEL])
    return serialize_record({**kept, features.LABEL: label, features.BOTTLENECK: float_feature(vector)})
