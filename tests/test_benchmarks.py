"""No benchmark runs in the tests, so a name that a change removed would be missed for long."""

import importlib
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.parametrize("name", sorted(file.stem for file in FOLDER.glob("*.py")))
def test_a_benchmark_finds_all_that_it_imports(name, monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    importlib.import_module(name)
