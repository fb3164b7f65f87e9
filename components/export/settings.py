"""Settings of export: when the model abstains."""

from __future__ import annotations

from components.settings import FractionBetween, settings


@settings
class Abstain:
    """The precision that answers must have, by a probability threshold chosen on the validation split."""

    precision: FractionBetween
