"""The paths of a run's artifacts below its run directory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from components.features import TENSORFLOW

# The stages that only a run with train.finetune has.
TUNING_STAGES = ("finetune", "reextract")
STAGES = ("ingest", "validate", "extract", "audit", "train", *TUNING_STAGES, "export", "evaluate", "report")
# A file of an export: the stage export writes it, the stage report completes it.
MODEL_CARD = "model_card.json"
# The verdict of a model that meets its limits, and the file that holds it in its export.
BLESSED = "BLESSED"
# A folder below that of a trained head: the head that was trained again on the train and val splits.
REFIT = "refit"


class Below:
    """Gives a run directory the path of a name below its root."""

    def __init__(self, name: str):
        self._name = name

    def __get__(self, run: RunDir, owner: type[RunDir]) -> Path:
        return run.root / self._name


@dataclass(frozen=True)
class RunDir:
    """One run directory, which gives the path of each artifact."""

    root: Path

    config = Below("config.yaml")
    record = Below("run.json")
    throughput = Below("throughput.json")
    workers = Below("workers.json")
    stages = Below("stages")
    examples = Below("examples")
    labels = Below("examples/labels.txt")
    rejects = Below("examples/rejects.jsonl")
    duplicates = Below("examples/duplicates.csv")
    images = Below("examples/images.csv")
    spans = Below("examples/spans.json")
    validation = Below("validation")
    backbones = Below("backbone")
    audit = Below("audit")
    model = Below("model")
    history = Below("model/history.csv")
    finetuned = Below("finetuned")
    exports = Below("export")
    tflite = Below("tflite")
    onnx = Below("onnx")
    openvino = Below("openvino")
    evaluation = Below("evaluation")
    predictions = Below("evaluation/predictions.csv")
    curve = Below("curve")
    curve_rows = Below("curve/curve.csv")
    report = Below("report")

    def bottlenecks(self, backbone_id: str, engine: str = TENSORFLOW, views: str = "") -> Path:
        """Return the folder of the bottlenecks that a backbone, an engine and the views give."""
        parts = [backbone_id, "" if engine == TENSORFLOW else engine, views]
        return self.root / "bottlenecks" / "-".join(part for part in parts if part)

    def trials(self, backbone_id: str) -> Path:
        """Return the file with the timings of the engines that were tried for a backbone."""
        return self.root / "bottlenecks" / f"{backbone_id}-trials.json"

    def artifacts(self) -> list[Path]:
        """Return the files and folders that a run, a curve or a plan writes directly below the root."""
        names = {path._name.partition("/")[0] for path in vars(RunDir).values() if isinstance(path, Below)}
        return [self.root / name for name in sorted({*names, "bottlenecks"})]
