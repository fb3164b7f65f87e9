"""Provenance: the versions that a run's results depend on."""

from __future__ import annotations

import platform
from importlib import metadata

PACKAGES = (
    *("topgraft", "tensorflow", "tensorflow-hub", "apache-beam"),
    *("tensorflow-data-validation", "tensorflow-model-analysis", "numpy", "scikit-learn"),
)


def list_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages whose results a run depends on; '' for one not installed."""
    return {"python": platform.python_version(), **{name: _find_version(name) for name in PACKAGES}}


def _find_version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""
