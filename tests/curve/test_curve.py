import csv
import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from toys import refusal, write_config

from components.backbones.views import serve_views
from components.curve.curve import (
    FAIL,
    LEAVE_OUT,
    SHRINK,
    CurveRow,
    check_draw,
    count_shots,
    draw_rows,
    join_parts,
    leave_unscaled,
    mean_class_accuracy,
    write_hparams,
)
from components.curve.page import format_point, plot_curve, summarize_curve, write_curve_page
from components.run_dir import RunDir
from components.shards.bottlenecks import Vectors
from components.storage.tables import write_csv
from components.train.model import L2, STANDARDIZE, WHITEN, add_final_training_ops
from components.train.normalization import scale_vectors
from components.train.settings import SOFTMAX, Architecture, Recipe, settle_recipe
from components.train.training_plan import plan_training
from components.train.warm_start import BIASES, WEIGHTS
from pipeline.cli import main

AUTOMATIC, _ = settle_recipe(Recipe(), Architecture())


@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=80),
    st.sampled_from(["1", "5", "60%"]),
    st.sampled_from([LEAVE_OUT, SHRINK]),
)
def test_a_draw_trains_on_so_many_of_each_class_and_tests_on_the_rest(labels, shots, small_classes):
    labels = np.array(labels)
    draw = draw_rows(labels, shots, small_classes, (0, 1))
    assert not set(draw.train) & set(draw.test)
    for label, count in enumerate(np.bincount(labels)):
        train, test = (labels[draw.train] == label).sum(), (labels[draw.test] == label).sum()
        if label not in draw.small:
            assert (train, test) == (count_shots(shots, count), count - count_shots(shots, count))
        else:
            assert count <= count_shots(shots, count)
            assert (train, test) == ((max(count - 1, 0), min(count, 1)) if small_classes == SHRINK else (0, 0))


def test_draws_differ_and_repeat():
    labels = np.repeat([0, 1], 50)
    first, second = (draw_rows(labels, "10", LEAVE_OUT, (0, number)).train.tolist() for number in (0, 1))
    assert first == draw_rows(labels, "10", LEAVE_OUT, (0, 0)).train.tolist() != second


def test_shares_are_rounded_and_leave_an_image_to_test():
    assert [count_shots("60%", images) for images in (2, 3, 5, 31, 800)] == [1, 2, 3, 19, 480]


def test_too_small_classes_are_refused_by_name_where_the_config_says_so():
    draw = draw_rows(np.array([0, 0, 0, 1]), "2", FAIL, (0, 0))
    assert "'b' the first" in refusal(check_draw, draw, "2", ["b"], FAIL)


def test_the_mean_of_classes_takes_a_limited_number_of_each():
    actual, predicted = np.array([0, 0, 0, 1]), np.array([0, 1, 1, 1])
    assert mean_class_accuracy(actual, predicted, 50) == pytest.approx((1 / 3 + 1) / 2)
    assert mean_class_accuracy(actual, predicted, 1) == 1


@pytest.mark.parametrize("average", [False, True])
def test_parts_are_joined_to_the_direction_that_a_canonical_graph_of_all_serves(average):
    random = np.random.default_rng(0)
    views = [random.uniform(size=(10, 3, width)).astype(np.float32) for width in (4, 9)]
    scaled = [part / np.linalg.norm(part, axis=-1, keepdims=True) * part.shape[-1] ** 0.5 for part in views]
    expected = np.array([serve_views(image, average) for image in np.concatenate(scaled, -1)])
    served = [np.array([serve_views(image, average) for image in part])[:, None] for part in views]
    joined = join_parts([Vectors(part, np.arange(10)) for part in served], average).values[:, 0]
    cosines = (joined * expected).sum(1) / np.linalg.norm(joined, axis=1) / np.linalg.norm(expected, axis=1)
    np.testing.assert_allclose(cosines, 1, atol=1e-6)


@pytest.mark.parametrize("kind", [L2, STANDARDIZE, WHITEN, "none"])
def test_bottlenecks_scaled_beforehand_get_the_logits_that_the_graph_would_give(kind):
    random = np.random.default_rng(0)
    labels = np.arange(40) % 2
    values = (random.normal(2, 1, (40, 2, 6)) + labels[:, None, None]).astype(np.float32)
    vectors = Vectors(values, labels)
    planned = plan_training(
        vectors, None, ["a", "b"], Path("labels.txt"), Architecture((), SOFTMAX, kind), AUTOMATIC, {}
    )
    unscaled = leave_unscaled(planned)
    assert unscaled.head.architecture.normalize == "none" and set(unscaled.start) == {WEIGHTS, BIASES}

    def logits_of(plan, bottlenecks):
        with tf.Graph().as_default(), tf.compat.v1.Session() as session:
            logits, _ = add_final_training_ops(tf.constant(bottlenecks), None, 2, plan.head.architecture, False)
            for variable in tf.compat.v1.global_variables():
                variable.load(plan.start[variable.op.name], session)
            return session.run(logits)

    scaled = scale_vectors(values, kind, planned.start)
    for view in range(2):
        expected = logits_of(planned, values[:, view])
        np.testing.assert_allclose(logits_of(unscaled, scaled[:, view]), expected, atol=1e-3)


def test_points_are_means_and_deviations_and_published_rows_are_marked():
    rows = [
        {"backbone": "b", "per_class": "15", "accuracy": str(value), "mean_class_accuracy": "0.5"}
        for value in (0.8, 0.9)
    ]
    measured, *published = summarize_curve(rows, "caltech101")
    assert (measured.accuracy, measured.accuracy_std) == pytest.approx((85, np.std([80, 90], ddof=1)))
    assert all(point.published and point.per_class == "15" for point in published)
    assert "(published)" in format_point(published[0])[0]
    assert summarize_curve(rows, None) == [measured]


def test_one_draw_has_no_deviation_on_page_terminal_and_plot(tmp_path):
    rows = [{"backbone": "b", "per_class": "15", "accuracy": "0.9", "mean_class_accuracy": "0.75"}]
    (point,) = summarize_curve(rows, None)
    assert point._asdict() == {
        **{"backbone": "b", "per_class": "15", "draws": 1, "published": False},
        **{"accuracy": 90, "accuracy_std": None, "mean_class": 75, "mean_class_std": None},
    }
    assert format_point(point) == ("b", "15", "90.00", "75.00")
    (line,) = plot_curve([point]).data
    assert line.error_y.array is None
    two = summarize_curve([*rows, {**rows[0], "accuracy": "0.8"}], None)
    assert format_point(two[0]) == ("b", "15", "85.00 ± 7.07", "75.00 ± 0.00")
    assert plot_curve(two).data[0].error_y.array == pytest.approx([2**0.5 * 5])
    run = RunDir(tmp_path)
    write_csv(run.curve_rows, list(rows[0]), [list(rows[0].values())])
    page = write_curve_page("c", None, run).read_text()
    assert "<td>90.00</td>" in page and "90.00 ±" not in page


def test_tensorboards_hparams_page_finds_each_training_with_its_settings_and_metrics(tmp_path):
    from tensorboard.plugins.hparams import plugin_data_pb2

    row = CurveRow("a/b+c", "60%", 3, 0.75, 0.5, 60, 40, 0.003)
    write_hparams(tmp_path, row)
    write_hparams(tmp_path, row._replace(draw=4))
    sessions = sorted((tmp_path / "hparams").iterdir())
    assert len(sessions) == 2
    metrics, started = {}, {}
    for file in sessions[0].iterdir():
        for event in tf.compat.v1.train.summary_iterator(str(file)):
            for value in event.summary.value:
                data = value.metadata.plugin_data
                if data.plugin_name == "scalars":
                    metrics[value.tag] = float(tf.make_ndarray(value.tensor))
                elif data.plugin_name == "hparams":
                    content = plugin_data_pb2.HParamsPluginData.FromString(data.content)
                    for name, setting in content.session_start_info.hparams.items():
                        started[name] = getattr(setting, setting.WhichOneof("kind"))
    assert metrics == {"accuracy": 0.75, "mean_class_accuracy": 0.5}
    assert started == {"backbone": "a/b+c", "per_class": "60%", "draw": 3, "l2": 0.003}


def test_a_curve_is_measured_from_cached_bottlenecks_and_shown(toy_config, tmp_path, capsys):
    config = {**toy_config, "output_dir": str(tmp_path / "run"), "train": {"steps": 20, "l2": "auto"}}
    path = str(write_config(tmp_path / "c.yaml", **config))
    assert main(["curve", path, "--shots", "5,50%", "--draws", "2"]) == 0
    out = capsys.readouterr().out
    with (tmp_path / "run" / "curve" / "curve.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:5] == ["backbone", "per_class", "draw", "accuracy", "mean_class_accuracy"]
    assert [(row["per_class"], row["draw"]) for row in rows] == [("5", "0"), ("5", "1"), ("50%", "0"), ("50%", "1")]
    assert all(float(row["accuracy"]) > 0.5 for row in rows)
    assert (int(rows[0]["train_images"]), int(rows[0]["test_images"])) == (15, 165)
    page = (tmp_path / "run" / "curve" / "index.html").read_text()
    assert "training images per class" in page and "index.html" in out
    stage = tmp_path / "run" / "stages" / "extract.json"
    assert json.loads(stage.read_text())["outcome"]["work"]["computed"] == 180
    assert "train.finetune" not in out
    # The curve ignores fine-tuning.
    finished = (tmp_path / "run" / "stages" / "curve.json").read_bytes()
    assert main(["curve", path, "train.finetune.layers=1", "--shots", "5,50%", "--draws", "2"]) == 0
    assert "ignores train.finetune" in capsys.readouterr().out
    assert (tmp_path / "run" / "stages" / "curve.json").read_bytes() == finished
    # Again with other numbers: the bottlenecks are those of before.
    assert not list((tmp_path / "run" / "stages").glob("extract-*.json"))
    assert main(["curve", path, "--shots", "3", "--draws", "1"]) == 0
    assert list((tmp_path / "run" / "curve" / "hparams").iterdir())
    assert stage.exists()
