"""Ingest: image files to TFRecord shards, each file read, checked by decoding and either written or rejected."""

from __future__ import annotations

import collections
import hashlib
import json
import stat
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import apache_beam as beam
import tensorflow as tf
from apache_beam.metrics import Metrics
from apache_beam.options.pipeline_options import PipelineOptions

from components import features, images
from components.errors import UserError
from components.features import SPLITS, Examples, RunDir, Work
from components.files import remove_partials, write_text
from components.images import ImageFile, Listing
from components.progress import Progress
from components.shards import bytes_feature, int_feature, serialize_record, writing_shards
from components.split import assign_shard, assign_split

# TensorFlow and hashlib release Python's lock, so this many files are decoded side by side.
DECODE_THREADS = 4


class Reject(NamedTuple):
    """One row of rejects.jsonl."""

    key: str
    reason: str
    detail: str


class CheckedImage(NamedTuple):
    """A file's bytes with what decoding them told; height and width in pixels."""

    encoded: bytes
    format: str
    sha256: str
    height: int
    width: int


def check_image(path: str) -> CheckedImage:
    """Read and decode one file; raises RejectedImage with the reason."""
    try:
        if not stat.S_ISREG(Path(path).stat().st_mode):  # reading a pipe would wait for ever
            raise RejectedImage(images.UNREADABLE, "not a regular file")
        encoded = Path(path).read_bytes()
    except OSError as error:
        raise RejectedImage(images.UNREADABLE, error.strerror or str(error)) from error
    if not encoded:
        raise RejectedImage(images.EMPTY, "0 bytes")
    image_format = images.recognise_format(encoded)
    if image_format is None:
        raise RejectedImage(images.NOT_AN_IMAGE, f"starts with {encoded[:8]!r}")
    try:
        height, width, _ = tf.io.decode_image(encoded, channels=3, expand_animations=False).shape
    except tf.errors.OpError as error:
        raise RejectedImage(images.CORRUPT, (error.message or "").split("[Op:")[0].strip()) from error
    if not height or not width:
        raise RejectedImage(images.CORRUPT, f"{width}x{height} pixels")
    return CheckedImage(encoded, image_format, hashlib.sha256(encoded).hexdigest(), height, width)


class RejectedImage(Exception):
    """A file that cannot become a record: args are the reason and a detail."""


class WriteExampleShard(beam.DoFn):
    """Turns (shard number, ImageFiles) into three TFRecord files; yields counts, and rejects and sums under tags."""

    def __init__(self, root: str, folder: Path, shards: int, labels: list[str], shares: Mapping[str, float], seed: int):
        self._root = root
        self._folder = folder
        self._shards = shards
        self._index = {text: index for index, text in enumerate(labels)}
        self._shares = dict(shares)
        self._seed = seed
        self._written = Metrics.counter("ingest", "written")
        self._rejected = Metrics.counter("ingest", "rejected")

    def process(self, element: tuple[int, Iterable[ImageFile]]) -> Iterator[Any]:
        shard, files = element
        outcome: collections.Counter[str] = collections.Counter()
        with ThreadPoolExecutor(DECODE_THREADS) as pool, writing_shards(self._folder, shard, self._shards) as write:
            ordered = sorted(files)
            for start in range(0, len(ordered), 8 * DECODE_THREADS):  # a bounded number of images in memory
                window = ordered[start : start + 8 * DECODE_THREADS]
                for file, checked in zip(window, pool.map(self._check, window)):
                    if isinstance(checked, Reject):
                        self._rejected.inc()
                        yield beam.pvalue.TaggedOutput("rejects", checked)
                        continue
                    split = assign_split(file.key, self._shares, self._seed)
                    write[split](self._record(file, checked))
                    self._written.inc()
                    outcome[f"{split}\0{file.text}"] += 1
                    yield beam.pvalue.TaggedOutput("sums", (checked.sha256, 1))
        yield outcome

    def _check(self, file: ImageFile) -> CheckedImage | Reject:
        try:
            return check_image(f"{self._root}/{file.key}")
        except RejectedImage as rejected:
            return Reject(file.key, *rejected.args)

    def _record(self, file: ImageFile, checked: CheckedImage) -> bytes:
        return serialize_record(
            {
                features.KEY: bytes_feature(_encode(file.key)),
                features.ENCODED: bytes_feature(checked.encoded),
                features.FORMAT: bytes_feature(checked.format.encode()),
                features.SHA256: bytes_feature(checked.sha256.encode()),
                features.HEIGHT: int_feature(checked.height),
                features.WIDTH: int_feature(checked.width),
                features.LABEL: int_feature(self._index[file.text]),
                features.TEXT: bytes_feature(_encode(file.text)),
                features.SOURCE: bytes_feature(_encode(file.source)),
            }
        )


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def ingest_images(
    listing: Listing,
    run: RunDir,
    shards: int,
    shares: Mapping[str, float],
    max_reject_share: float,
    seed: int,
    options: PipelineOptions,
    progress: Progress,
) -> Examples:
    """Write the shards, labels.txt and rejects.jsonl of a listing; raises UserError when too much of it is unusable."""
    run.examples.mkdir(parents=True, exist_ok=True)
    remove_partials(run.examples)
    outcome_file = run.examples / "outcome.json"
    size = sum(file.size for file in listing.files)
    watch = progress.watch_folder(run.examples, size, len(listing.files), "images")
    with watch, beam.Pipeline(options=options) as pipeline:
        # Only paths are grouped: a shard's worker reads the bytes itself and writes them straight to its files.
        outcomes = (
            pipeline
            | "List files" >> beam.Create(listing.files)
            | "Assign shards" >> beam.Map(lambda file: (assign_shard(file.key, shards), file))
            | "Add empty shards" >> _AddEmptyShards(shards)
            | "Group by shard" >> beam.GroupByKey()
            | "Drop markers" >> beam.MapTuple(lambda shard, files: (shard, [file for file in files if file]))
            | "Write example shards"
            >> beam.ParDo(
                WriteExampleShard(listing.root, run.examples, shards, listing.labels, shares, seed)
            ).with_outputs("rejects", "sums", main="outcomes")
        )
        copies = (
            outcomes.sums
            | "Count each sum" >> beam.CombinePerKey(sum)
            | "Count copies" >> beam.MapTuple(lambda _, count: count - 1)
            | "Add copies" >> beam.CombineGlobally(sum)
        )
        rejects = outcomes.rejects | "Collect rejects" >> beam.combiners.ToList()
        counts = outcomes.outcomes | "Collect outcomes" >> beam.combiners.ToList()
        _ = (
            pipeline
            | "Start" >> beam.Create([None])
            | "Write outcome"
            >> beam.Map(
                _write_outcome,
                outcome_file,
                counts=beam.pvalue.AsSingleton(counts),
                rejects=beam.pvalue.AsSingleton(rejects),
                copies=beam.pvalue.AsSingleton(copies),
            )
        )
    outcome = json.loads(outcome_file.read_text(encoding="utf-8"))
    outcome_file.unlink()
    rejected = [Reject(*row) for row in outcome["rejects"]]
    rejected += [Reject(key, images.NO_CLASS, "lies beside the class folders, not in one") for key in listing.strays]
    _write_rejects(run.rejects, rejected)
    write_text(run.labels, "".join(f"{text}\n" for text in listing.labels))
    _remove_other_shards(run.examples, shards)

    per_class = collections.Counter(outcome["counts"])
    splits = {split: sum(n for name, n in per_class.items() if name.startswith(f"{split}\0")) for split in SPLITS}
    found = len(listing.files) + len(listing.strays)
    _check_share(rejected, found, max_reject_share, run.rejects)
    _check_splits(splits, per_class, listing.labels)
    return Examples(
        work=Work(items=found, computed=found),
        found=found,
        written=sum(splits.values()),
        rejected=len(rejected),
        duplicates=outcome["copies"],
        splits=splits,
        labels=listing.labels,
        shards=shards,
    )


class _AddEmptyShards(beam.PTransform):
    """Adds a marker (shard, None) for every shard number, so that a shard without images gets its empty files too."""

    def __init__(self, shards: int):
        super().__init__()
        self._shards = shards

    def expand(self, files: beam.PCollection) -> beam.PCollection:
        markers = files.pipeline | "List markers" >> beam.Create([(shard, None) for shard in range(self._shards)])
        return (files, markers) | "Join markers" >> beam.Flatten()


def _write_outcome(_: None, path: Path, counts: list, rejects: list, copies: int) -> None:
    total: collections.Counter[str] = sum(counts, collections.Counter())
    write_text(path, json.dumps({"counts": total, "rejects": rejects, "copies": copies}))


def _write_rejects(path: Path, rejects: list[Reject]) -> None:
    write_text(path, "".join(json.dumps(reject._asdict()) + "\n" for reject in sorted(rejects)))


def _remove_other_shards(folder: Path, shards: int) -> None:
    for file in folder.glob("*.tfrecord"):
        if not file.name.endswith(f"-of-{shards:05d}.tfrecord"):
            file.unlink()


def _check_share(rejects: list[Reject], found: int, max_reject_share: float, path: Path) -> None:
    if len(rejects) > max_reject_share * found:
        first = min(rejects)
        raise UserError(
            f"{len(rejects)} of {found} files are not usable images (the first: '{first.key}', {first.reason}), "
            f"more than data.max_reject_share={max_reject_share} allows: read '{path}', then mend the files."
        )


def _check_splits(splits: dict[str, int], per_class: Mapping[str, int], labels: list[str]) -> None:
    for split, count in splits.items():
        if not count:
            raise UserError(f"The {split} split has no image at all: add images or enlarge data.split.{split}.")
    untrained = [text for text in labels if not per_class.get(f"train\0{text}")]
    if untrained:
        raise UserError(
            f"Class '{untrained[0]}' has no readable image in the train split: add images to it or remove its folder."
        )
