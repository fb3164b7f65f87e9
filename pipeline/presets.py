"""The presets of a config: tables of values below the user's own keys."""

from __future__ import annotations

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    "fast": {
        "backbone": "efficientnet_lite0",
        # No penalty is chosen, and the head is trained once.
        "head": {"normalize": "l2"},
        "train": {"l2": 0.001, "refit": False},
    },
    "balanced": {},  # the defaults
    "best": {
        "backbone": ["efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"],
        "augment": {"flip": True, "average": True},
    },
}


def apply_preset(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values of a config over those of its preset; an unknown preset, which the config refuses, has none."""
    name = values.get("preset", "balanced")
    return _merge(PRESETS.get(name, {}) if isinstance(name, str) else {}, values)


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Return the keys of both; for a key of both the value above, or if both are sections these merged."""
    merged = {**below, **above}
    for key in below.keys() & above.keys():
        if isinstance(below[key], dict) and isinstance(above[key], dict):
            merged[key] = _merge(below[key], above[key])
    return merged
