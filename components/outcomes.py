"""The outcome of each stage: a frozen record of plain values, which the run keeps in stages/ as JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from components.features import TENSORFLOW
from components.run_dir import REFIT, RunDir


@dataclass(frozen=True)
class Work:
    """Numbers of items that a stage saw, reused from an earlier run, and computed."""

    items: int = 0
    reused: int = 0
    computed: int = 0


@dataclass(frozen=True)
class Examples:
    """Outcome of ingest: counts of images, where found == written + rejected; warnings are sentences for the user.

    shards holds the number of shards of each span, the oldest first; images maps a class to its written images.
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
    """Outcome of extract: backbone, width of a bottleneck (dim), engines, and name and number of the views.

    With average, the model returns the mean over all views. test_engine computed the test split, '' if engine did.
    """

    work: Work
    backbone_name: str
    backbone_id: str
    dim: int
    engine: str = TENSORFLOW
    views: str = ""
    view_count: int = 1
    average: bool = False
    test_engine: str = ""

    def folder(self, run: RunDir) -> Path:
        engines = "-".join(filter(None, (self.engine, self.test_engine)))
        return run.bottlenecks(self.backbone_id, engines, self.views)

    def extra_paths(self, run: RunDir) -> list[Path]:
        return [run.backbones / self.backbone_id]


@dataclass(frozen=True)
class Audit:
    """Outcome of audit: numbers of near-duplicate pairs, of those across splits (leaks), of suspicious labels."""

    work: Work
    near_duplicates: int
    leaks: int
    suspicious: int
    warnings: list[str]

    def folder(self, run: RunDir) -> Path:
        return run.audit


@dataclass(frozen=True)
class Head:
    """Outcome of train: the epoch of the kept checkpoint, its validation accuracy and loss, and the L2 weight.

    best_epoch is 0 where training began with a trained head and no epoch improved on it. With refit the exported head
    is another: trained again in the same way on the train and val splits. warnings are sentences for the user.
    """

    work: Work
    best_epoch: int
    val_accuracy: float
    val_loss: float
    l2: float
    refit: bool
    warnings: list[str]

    def folder(self, run: RunDir) -> Path:
        return run.model

    def exported(self, run: RunDir) -> Path:
        """Return the folder of the checkpoint that is exported."""
        return run.model / REFIT if self.refit else self.folder(run)

    def history(self, run: RunDir) -> Path:
        return self.folder(run) / run.history.name


@dataclass(frozen=True)
class TunedHead(Head):
    """Outcome of finetune: the head after fine-tuning, and the id of the fine-tuned backbone."""

    backbone_id: str

    def folder(self, run: RunDir) -> Path:
        return run.finetuned

    def extra_paths(self, run: RunDir) -> list[Path]:
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

    gated is true where the config sets a limit. A blessed model has a reason only where nothing was compared. baseline
    is the version of the export that it was compared with, or ''; warnings are sentences for the user.
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
        """The verdict as the user reads it."""
        if not self.gated:
            return "NOT GATED"
        if not self.blessed:
            return "NOT BLESSED"
        return "BLESSED (nothing was compared)" if self.reasons else "BLESSED"

    def folder(self, run: RunDir) -> Path:
        return run.evaluation


@dataclass(frozen=True)
class Results:
    """The outcomes that a report shows; head is the fine-tuned one after fine-tuning."""

    examples: Examples
    validation: Validation
    bottlenecks: Bottlenecks
    audit: Audit
    head: Head
    export: Export
    evaluation: Evaluation


@dataclass(frozen=True)
class Curve:
    """Outcome of curve: trainings as work, and a warning per number of images that some classes do not have."""

    work: Work
    warnings: list[str]

    def folder(self, run: RunDir) -> Path:
        return run.curve


@dataclass(frozen=True)
class Report:
    """Outcome of report: paths of the page and the model card, relative to the run directory, and warnings."""

    work: Work
    page: str
    card: str
    warnings: list[str]

    def folder(self, run: RunDir) -> Path:
        return run.report

    def extra_paths(self, run: RunDir) -> list[Path]:
        return [run.root / self.card]
