"""docs/notebook.ipynb, executed in a kernel of its own."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "docs" / "notebook.ipynb"


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    """The cells of the notebook after their execution in an empty folder, by their source."""
    notebook = nbformat.read(NOTEBOOK, 4)
    folder = tmp_path_factory.mktemp("notebook")
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder)}}).execute()
    return {cell.source: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}


def find(kernel, source):
    """Return the kinds of outputs of the cell with this source, and all their text."""
    (outputs,) = [outputs for text, outputs in kernel.items() if source in text]
    texts = [output.get("text") or output.data.get("text/plain", "") for output in outputs]
    return {output.output_type for output in outputs}, "".join(texts)


def test_the_notebook_shows_what_it_promises(kernel):
    _, shown = find(kernel, 'pipeline.run("digits", {"evaluate.thresholds": {"accuracy": 0.8}})')
    assert "ingest ... " in shown and "800 images: train 479, val 160, test 161" in shown
    assert "verdict='BLESSED'" in shown
    accuracy, blessed = find(kernel, "run.accuracy, run.blessed")[1].strip("()").split(", ")
    assert float(accuracy) >= 0.8 and blessed == "True"
    assert find(kernel, "run.confusion")[1].startswith("predicted   0   1   2")
    assert find(kernel, "run.mistakes")[1].split()[:4] == ["path", "actual", "predicted", "probability"]
    assert find(kernel, "model.predict")[1].startswith("Prediction(label='")
    assert float(find(kernel, "sum(int(one.label)")[1]) >= 0.7
    assert "Run(folder=PosixPath('runs/digits'), accuracy=" in find(kernel, "quiet=True")[1]


def test_no_library_writes_into_the_notebook(kernel):
    for outputs in kernel.values():
        for output in outputs:
            assert output.get("name") != "stderr", output
            assert set(output.get("data", {})) <= {"text/plain", "text/html"}  # scripts among them


def test_the_stored_notebook_has_no_outputs():
    assert not [cell for cell in nbformat.read(NOTEBOOK, 4).cells if cell.get("outputs")]
