"""What each stage returns: frozen records of plain values, kept in stages/ as JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from components.features import TENSORFLOW
from components.run_dir import RunDir


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
class Results:
    """The outcomes of the stages that a report shows; head is the fine-tuned one where there is one."""

    examples: Examples
    validation: Validation
    bottlenecks: Bottlenecks
    audit: Audit
    head: Head
    export: Export
    evaluation: Evaluation


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
