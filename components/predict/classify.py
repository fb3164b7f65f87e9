"""Classify: a backbone as what it was trained to be, a classifier of its own classes."""

from __future__ import annotations

from collections.abc import Sequence

from components import features
from components.backbones.prepare import BackboneSession, prepare_cached
from components.backbones.spec import Spec
from components.errors import UserError
from components.predict.predict import Answer, Classifier
from components.terminal.progress import Progress


def load_backbone_classifier(specs: Sequence[Spec], progress: Progress) -> Classifier:
    """Return a backbone's own classifier; raises UserError for one without classes."""
    backbone, folder = prepare_cached(specs, progress, own_classes=True)
    if not backbone.labels:
        raise UserError(f"The backbone '{backbone.name}' has no classes of its own: train a head with topgraft run.")
    session = BackboneSession(folder)
    return Classifier(
        [name.split(",")[0] for name in backbone.labels],  # of 'giant panda, panda, panda bear' the first
        lambda encoded: [Answer(row) for row in session.run(features.PROBABILITIES, features.IMAGE_BYTES, encoded)],
    )
