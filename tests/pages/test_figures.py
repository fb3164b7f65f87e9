import numpy as np
import pytest

from components.pages.figures import plot_confusion, plot_map


def test_the_cells_of_the_confusion_picture_show_their_counts():
    (heatmap,) = plot_confusion(np.array([[3, 1], [0, 4]]), ["a", "b"]).data
    assert heatmap.texttemplate == "%{text}" and "%{text} images" in heatmap.hovertemplate
    assert [list(row) for row in heatmap.text] == [["3", "1"], ["0", "4"]]
    np.testing.assert_allclose(heatmap.z, [[0.75, 0.25], [0, 1]])


@pytest.mark.parametrize("classes", [2, 257])
def test_the_confusion_matrix_fits_a_page_whatever_the_classes(classes):
    figure = plot_confusion(np.eye(classes, dtype=int), [f"class {number}" for number in range(classes)])
    assert 400 <= figure.layout.width <= 1100


def test_wrong_test_images_are_marked_on_the_map():
    rows = [
        {"path": str(number), "label": "a", "split": split, "x": str(number), "y": "0"}
        for number, split in enumerate(("train", "val", "test", "test"))
    ]
    traces = {trace.name: list(trace.x) for trace in plot_map(rows, {"3"}).data}
    assert traces == {"train": [0], "val": [1], "test": [2], "test, wrong": [3]}
