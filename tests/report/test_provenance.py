import platform

import tensorflow as tf

from components.report import provenance
from components.report.provenance import list_versions


def test_versions_are_those_that_are_imported(monkeypatch):
    versions = list_versions()
    assert versions["python"] == platform.python_version() and versions["tensorflow"] == tf.__version__
    monkeypatch.setattr(provenance, "PACKAGES", ("no-such-package",))
    assert list_versions()["no-such-package"] == ""
