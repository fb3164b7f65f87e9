"""The content of a small model's report, and its card."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np

from components.backbones.spec import Spec
from components.outcomes import Audit, Bottlenecks, Evaluation, Examples, Export, Head, Results, Validation, Work
from components.report.content import Content, measure_reliability
from components.report.model_card import build_card

EXAMPLES = Examples(Work(), 41, 40, 1, 2, 1, {"train": 20, "val": 4, "test": 16}, ["a", "b"], [1], [])
COUNTS = Counter({("a", "test"): 12, ("b", "test"): 4, ("a", "train"): 20, ("b", "val"): 4})
FACTS = {
    "backbone": {"name": "efficientnet_lite0", "id": "x", "dim": 1280},
    "classes": ["a", "b"],
    "images": EXAMPLES.splits,
    "validation": {},
    "abstention": None,
}
AUDIT = Audit(Work(), 5, 4, 2, [])
METRICS = {"accuracy": 0.75, "top5": 1.0, "loss": 0.5}
EVALUATION = Evaluation(Work(), METRICS, True, False, [], "", [])
# Of the outcomes, those that a card does not show are missing.
HEAD = Head(Work(), 1, 0.5, 0.5, 0.001, refit=False, warnings=[])
RESULTS = Results(EXAMPLES, None, None, AUDIT, HEAD, Export(Work(), "0"), EVALUATION)
CONTENT = Content(
    RESULTS,
    FACTS,
    COUNTS,
    "d",
    [],
    np.array([[12, 0], [4, 0]]),
    {},
    measure_reliability([{"probability": "0.9", "label": "a", "actual": "a"}], None),
    3,
    0.6,
)
CONFIG = {
    "name": "x",
    "seed": 0,
    "data": {"path": "photos", "source": None},
    "head": {},
    "train": {},
    "augment": {},
    "evaluate": {"thresholds": {}},
}
LITE = Spec(name="efficientnet_lite0")


def make_content(outcomes=None, **changes):
    """Return the content with other outcomes and values."""
    return replace(CONTENT, results=replace(RESULTS, **outcomes or {}), **changes)


def make_card(reasons=(), blessed=False, gated=True, backbones=(LITE,)):
    evaluation = replace(EVALUATION, gated=gated, blessed=blessed, reasons=list(reasons))
    return build_card(make_content({"evaluation": evaluation}), backbones, CONFIG)


def read_results(run, **changes):
    """Return the outcomes of a finished run; changes are other values of them by stage."""
    kinds = {
        "ingest": Examples,
        "validate": Validation,
        "extract": Bottlenecks,
        "audit": Audit,
        "train": Head,
        "export": Export,
        "evaluate": Evaluation,
    }
    outcomes = []
    for stage, kind in kinds.items():
        values = json.loads((run.stages / f"{stage}.json").read_text())["outcome"]
        outcomes.append(kind(**{**values, "work": Work(**values["work"]), **changes.get(stage, {})}))
    return Results(*outcomes)
