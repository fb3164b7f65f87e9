"""The facts of a small model, and its card."""

import numpy as np

from components.backbones.spec import Spec
from components.outcomes import Audit, Evaluation, Examples, Export, Results, Work
from components.report.measured import Measured
from components.report.model_card import ImageCounts, build_card
from components.report.reliability import collect_reliability

EXAMPLES = Examples(Work(), 41, 40, 1, 2, 1, {"train": 20, "val": 4, "test": 16}, ["a", "b"], [1], [])
COUNTS = {("a", "test"): 12, ("b", "test"): 4, ("a", "train"): 20, ("b", "val"): 4}
FACTS = {
    "backbone": {"name": "efficientnet_lite0", "id": "x", "dim": 1280},
    "classes": ["a", "b"],
    "images": EXAMPLES.splits,
    "validation": {},
    "abstention": None,
}
AUDIT = Audit(Work(), 5, 4, 2, [])
MEASURED = Measured(
    [],
    np.array([[12, 0], [4, 0]]),
    {"accuracy": 0.75, "top5": 1.0, "loss": 0.5},
    {},
    collect_reliability([{"probability": "0.9", "label": "a", "actual": "a"}], None),
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


def make_results(evaluation=None, **outcomes):
    """Return the outcomes of a run, of which those that a card does not look at are missing."""
    evaluation = evaluation or Evaluation(Work(), {}, True, False, [], "", [])
    values = dict.fromkeys(("validation", "bottlenecks", "head"))
    values |= {"examples": EXAMPLES, "audit": AUDIT, "export": Export(Work(), "0"), "evaluation": evaluation}
    return Results(**{**values, **outcomes})


LITE = Spec(name="efficientnet_lite0")


def make_card(reasons=(), blessed=False, gated=True, backbones=(LITE,)):
    results = make_results(Evaluation(Work(), {}, gated, blessed, list(reasons), "", []))
    return build_card(results, MEASURED, backbones, CONFIG, FACTS, ImageCounts(COUNTS, "d"))
