import numpy as np
import pytest

from components.metrics.calibration import NEVER_ANSWERS, apply_threshold, calibration_bins, coverage_curve
from components.pages.figures import plot_calibration, plot_confusion, plot_coverage, plot_map

CONFIDENCES = np.array([0.9, 0.9, 0.8, 0.7, 0.6])
CORRECT = np.array([True, True, False, True, False])


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


def test_a_chosen_threshold_is_marked_on_the_curve():
    chosen = apply_threshold(CONFIDENCES, CORRECT, 0.7, 0.9)
    curve, marker = plot_coverage(coverage_curve(CONFIDENCES, CORRECT), chosen).data
    assert (list(curve.x), list(curve.customdata)) == ([0.4, 0.6, 0.8, 1.0], [0.9, 0.8, 0.7, 0.6])
    np.testing.assert_allclose(curve.y, [1, 2 / 3, 0.75, 0.6])
    assert (marker.x, marker.y, marker.customdata) == ((0.8,), (0.75,), (0.7,))


def test_no_threshold_is_marked_where_none_was_chosen_or_nothing_is_answered():
    for chosen in (None, apply_threshold(CONFIDENCES, CORRECT, NEVER_ANSWERS, 0.9)):
        (curve,) = plot_coverage(coverage_curve(CONFIDENCES, CORRECT), chosen).data
        assert curve.name == "test split"


def test_the_dots_of_the_reliability_diagram_are_as_large_as_their_bins():
    _, dots = plot_calibration(calibration_bins(CONFIDENCES, CORRECT)).data
    assert list(dots.marker.size) == [1, 1, 1, 2]
    np.testing.assert_allclose(dots.x, [0.6, 0.7, 0.8, 0.9])
    np.testing.assert_allclose(dots.y, [0, 1, 0, 1])
