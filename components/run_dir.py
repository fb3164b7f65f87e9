"""Where each artifact of a run lies."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from components.features import TENSORFLOW

STAGES = (
    *("ingest", "validate", "extract", "audit"),
    *("train", "finetune", "reextract"),
    *("export", "evaluate", "report"),
)
# In an export, which writes it; completed once the model has been measured.
MODEL_CARD = "model_card.json"
# Those of a run with train.finetune alone.
TUNING_STAGES = ("finetune", "reextract")


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
