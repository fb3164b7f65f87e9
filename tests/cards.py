"""The facts of a small model, and its card."""

import numpy as np

from components.backbones.spec import Spec
from components.outcomes import Audit, Evaluation, Examples, Work
from components.report.measured import Measured
from components.report.model_card import Origin, build_card
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


def make_card(reasons=(), blessed=False, gated=True, **origin):
    values = {
        "name": "x",
        "software": "0",
        "data": ["photos"],
        "backbones": [Spec(name="efficientnet_lite0")],
        "training": {},
        "thresholds": {},
    }
    evaluation = Evaluation(Work(), {}, gated, blessed, list(reasons), "", [])
    return build_card(Origin(**{**values, **origin}), "0", FACTS, EXAMPLES, COUNTS, "d", AUDIT, MEASURED, evaluation)
