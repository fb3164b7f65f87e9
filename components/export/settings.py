"""Settings of export: when the model abstains."""

from __future__ import annotations

from components.settings import FractionBetween, settings


@settings
class Abstain:
    """The precision of answers above a probability threshold, which is chosen on the validation split."""

    precision: FractionBetween
