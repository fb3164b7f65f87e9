"""The contract between stages: every feature key, artifact name and stage outcome stands here once."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

STAGES = (
    *("ingest", "validate", "extract", "audit"),
    *("train", "finetune", "reextract"),
    *("export", "evaluate", "report"),
)
# In an export, which writes it; completed once the model has been measured.
MODEL_CARD = "model_card.json"
# Those of a run with train.finetune alone.
TUNING_STAGES = ("finetune", "reextract")
SPLITS = ("train", "val", "test")

# Engines that compute bottlenecks; a config may leave the choice to a trial.
TENSORFLOW, TENSORFLOW_BF16, OPENVINO, OPENVINO_BF16 = "tensorflow", "tensorflow_bf16", "openvino", "openvino_bf16"
AUTO = "auto"

# Keys of the image record and of the bottleneck record (both are tf.Example).
KEY = "image/key"
ENCODED = "image/encoded"
FORMAT = "image/format"
SHA256 = "image/sha256"
HEIGHT = "image/height"
WIDTH = "image/width"
LABEL = "image/class/label"
TEXT = "image/class/text"
SOURCE = "image/source"
BOTTLENECK = "bottleneck"
BOTTLENECK_VIEWS = "bottleneck/views"

# Tensors of a canonical backbone, and the signatures of an export.
IMAGE_BYTES = "image_bytes"
PIXELS = "pixels"
VIEWS = "views"
INDEX = "index"
LABEL_NAME = "label"
PROBABILITIES = "probabilities"
ABSTAINED = "abstained"
SERVING_SIGNATURE = "serving_default"
BOTTLENECK_SIGNATURE = "bottleneck"


@dataclass(frozen=True)
class RunDir:
    """Where each artifact of one run lies."""

    root: Path

    @property
    def record(self) -> Path:
        return self.root / "run.json"

    @property
    def throughput(self) -> Path:
        return self.root / "throughput.json"

    @property
    def stages(self) -> Path:
        return self.root / "stages"

    @property
    def examples(self) -> Path:
        return self.root / "examples"

    @property
    def labels(self) -> Path:
        return self.examples / "labels.txt"

    @property
    def rejects(self) -> Path:
        return self.examples / "rejects.jsonl"

    @property
    def duplicates(self) -> Path:
        return self.examples / "duplicates.csv"

    @property
    def images(self) -> Path:
        return self.examples / "images.csv"

    @property
    def spans(self) -> Path:
        return self.examples / "spans.json"

    @property
    def validation(self) -> Path:
        return self.root / "validation"

    @property
    def backbones(self) -> Path:
        return self.root / "backbone"

    def bottlenecks(self, backbone_id: str, engine: str = TENSORFLOW, views: str = "") -> Path:
        parts = [backbone_id, "" if engine == TENSORFLOW else engine, views]
        return self.root / "bottlenecks" / "-".join(part for part in parts if part)

    def trials(self, backbone_id: str) -> Path:
        return self.root / "bottlenecks" / f"{backbone_id}-trials.json"

    @property
    def audit(self) -> Path:
        return self.root / "audit"

    @property
    def model(self) -> Path:
        return self.root / "model"

    @property
    def history(self) -> Path:
        return self.model / "history.csv"

    @property
    def finetuned(self) -> Path:
        return self.root / "finetuned"

    @property
    def exports(self) -> Path:
        return self.root / "export"

    @property
    def tflite(self) -> Path:
        return self.root / "tflite"

    @property
    def evaluation(self) -> Path:
        return self.root / "evaluation"

    @property
    def predictions(self) -> Path:
        return self.evaluation / "predictions.csv"

    @property
    def curve(self) -> Path:
        return self.root / "curve"

    @property
    def curve_rows(self) -> Path:
        return self.curve / "curve.csv"

    @property
    def report(self) -> Path:
        return self.root / "report"

    def artifacts(self) -> list[Path]:
        """Return all that a run, a curve or a plan writes directly below its directory."""
        return [
            *(self.record, self.stages, self.examples, self.validation, self.backbones, self.root / "bottlenecks"),
            *(self.audit, self.model, self.finetuned, self.exports, self.tflite, self.evaluation),
            *(self.curve, self.report, self.throughput),
        ]


class Shard(NamedTuple):
    """One shard of a span: its number among so many, and the span, 0 for the first."""

    number: int
    of: int
    span: int = 0


def shard_name(split: str, shard: Shard) -> str:
    """File name of a shard, such as train-00003-of-00008.tfrecord; a later span is named, as in train-span2-."""
    return f"{split}-{_name_shard(shard)}.tfrecord"


def index_name(shard: Shard) -> str:
    """File name of the index of a shard, such as files-00003-of-00008.json."""
    return f"files-{_name_shard(shard)}.json"


def shard_names(shard: Shard) -> list[str]:
    """Return the names of the files of a shard, one a split."""
    return [shard_name(split, shard) for split in SPLITS]


def is_index(name: str) -> bool:
    """Tell whether a file's name is that of the index of a shard."""
    return name.startswith("files-") and name.endswith(".json") and parse_shard(name) is not None


def _name_shard(shard: Shard) -> str:
    return f"{f'span{shard.span}-' if shard.span else ''}{shard.number:05d}-of-{shard.of:05d}"


def parse_shard(name: str) -> Shard | None:
    """Return the shard that a file's name tells, None for any other file."""
    match = re.fullmatch(r"[a-z]+-(?:span(\d+)-)?(\d{5})-of-(\d{5})\.(?:tfrecord|json)", name)
    return Shard(int(match[2]), int(match[3]), int(match[1] or 0)) if match else None


def is_shard(name: str) -> bool:
    """Tell whether a file's name is that of a split's shard, whose records hold sums that its readers compare."""
    return name.partition("-")[0] in SPLITS and name.endswith(".tfrecord") and parse_shard(name) is not None


@dataclass(frozen=True)
class Work:
    """How much a stage had to do: items seen, taken over from before, computed anew."""

    items: int = 0
    reused: int = 0
    computed: int = 0


@dataclass(frozen=True)
class Examples:
    """Outcome of ingest: counts always satisfy found == written + rejected; warnings are sentences for the user.

    shards holds the number of shards of each span, the oldest first; images the number of written images by class.
    """

    work: Work
    found: int
    written: int
    rejected: int
    duplicates: int
    label_conflicts: int
    splits: dict[str, int]
    labels: list[str]
    shards: list[int]
    warnings: list[str]
    images: dict[str, int] = field(default_factory=dict)

    def folder(self, run: RunDir) -> Path:
        return run.examples


@dataclass(frozen=True)
class Validation:
    """Outcome of validate: TFDV's anomalies that did not stop the run, one sentence each."""

    work: Work
    warnings: list[str]

    def folder(self, run: RunDir) -> Path:
        return run.validation


@dataclass(frozen=True)
class Bottlenecks:
    """Outcome of extract: which backbone and engine, the width of its bottleneck, the views' name and number.

    average tells that the model answers by the mean of all views.
    """

    work: Work
    backbone_name: str
    backbone_id: str
    dim: int
    engine: str = TENSORFLOW
    views: str = ""
    view_count: int = 1
    average: bool = False

    def folder(self, run: RunDir) -> Path:
        return run.bottlenecks(self.backbone_id, self.engine, self.views)

    def beside(self, run: RunDir) -> list[Path]:
        return [run.backbones / self.backbone_id]


@dataclass(frozen=True)
class Audit:
    """Outcome of audit: pairs of images that look alike, those of them across splits, labels in doubt, sentences."""

    work: Work
    near_duplicates: int
    leaks: int
    suspicious: int
    warnings: list[str]

    def folder(self, run: RunDir) -> Path:
        return run.audit


@dataclass(frozen=True)
class Head:
    """Outcome of train: the epoch whose checkpoint was kept, its validation accuracy and loss, the L2 weight used.

    best_epoch is 0 where training began with a trained head and no epoch was better on the validation split.
    """

    work: Work
    best_epoch: int
    val_accuracy: float
    val_loss: float
    l2: float

    def folder(self, run: RunDir) -> Path:
        return run.model

    def history(self, run: RunDir) -> Path:
        return self.folder(run) / run.history.name


@dataclass(frozen=True)
class TunedHead(Head):
    """Outcome of finetune: the head as it was trained on with the backbone, and the id of what that became."""

    backbone_id: str

    @property
    def warnings(self) -> list[str]:
        if self.best_epoch:
            return []
        return ["No epoch of fine-tuning was better on the validation split: the model is that of the head alone."]

    def folder(self, run: RunDir) -> Path:
        return run.finetuned

    def beside(self, run: RunDir) -> list[Path]:
        return [run.backbones / self.backbone_id]


@dataclass(frozen=True)
class Export:
    """Outcome of export: the version folder below export/."""

    work: Work
    version: str

    def folder(self, run: RunDir) -> Path:
        return run.exports / self.version


@dataclass(frozen=True)
class Evaluation:
    """Outcome of evaluate: metrics of the test split, and the verdict on the model with its reasons.

    gated tells whether the config sets a limit. A blessed model has a reason only where nothing was compared. baseline
    is the version of the export that it was compared with, '' without one; warnings are sentences for the user.
    """

    work: Work
    metrics: dict[str, float]
    gated: bool
    blessed: bool
    reasons: list[str]
    baseline: str
    warnings: list[str]

    @property
    def verdict(self) -> str:
        """The verdict in words."""
        if not self.gated:
            return "NOT GATED"
        if not self.blessed:
            return "NOT BLESSED"
        return "BLESSED (nothing was compared)" if self.reasons else "BLESSED"

    def folder(self, run: RunDir) -> Path:
        return run.evaluation


@dataclass(frozen=True)
class Curve:
    """Outcome of curve: how many trainings, and a sentence for each number of images that some classes do not have."""

    work: Work
    warnings: list[str]

    def folder(self, run: RunDir) -> Path:
        return run.curve


@dataclass(frozen=True)
class Report:
    """Outcome of report: the page and the model's card, relative to the run directory, and sentences for the user."""

    work: Work
    page: str
    card: str
    warnings: list[str]

    def folder(self, run: RunDir) -> Path:
        return run.report

    def beside(self, run: RunDir) -> list[Path]:
        return [run.root / self.card]
