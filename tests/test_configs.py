"""The heads of configs/, on painted images and the toy backbone: their own backbones are downloads."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import tensorflow as tf
import yaml
from sklearn.metrics import accuracy_score, log_loss
from toys import paint_images

from components.run_dir import RunDir
from pipeline.cli import main
from pipeline.load_config import load_config

CONFIGS = Path(__file__).parents[1] / "configs"


@pytest.fixture(scope="module")
def run_here(tmp_path_factory, toy_backbone):
    """Return a function that runs a config on two painted classes, and gives the run directory."""
    folder = tmp_path_factory.mktemp("configs")
    images = paint_images(folder / "images", per_class=60)
    shutil.rmtree(images / "yellow")

    def run(name, *overrides):
        backbone = yaml.safe_dump(toy_backbone, default_flow_style=True).strip()
        places = [f"data.path={images}", f"backbone={backbone}", f"output_dir={folder / 'run'}"]
        assert main(["run", str(CONFIGS / name), *places, "evaluate.thresholds.accuracy=0.7", *overrides]) == 0
        return RunDir(folder / "run")

    return run


def read_shapes(run):
    reader = tf.train.load_checkpoint(str(run.model))
    return {
        name.partition("/")[2]: shape
        for name, shape in reader.get_variable_to_shape_map().items()
        if name.endswith("weights")
    }


def check_metrics(run):
    """Assert that what TFMA measured of the SavedModel is what scikit-learn makes of its answers."""
    metrics = json.loads(run.record.read_text())["metrics"]
    with run.predictions.open(newline="") as file:
        rows = list(csv.DictReader(file))
    actual = [row["actual"] for row in rows]
    assert metrics["accuracy"] == pytest.approx(accuracy_score(actual, [row["label"] for row in rows]))
    magenta = [
        float(row["probability"]) if row["label"] == "magenta" else 1 - float(row["probability"]) for row in rows
    ]
    assert metrics["loss"] == pytest.approx(log_loss(actual, magenta, labels=["cyan", "magenta"]), abs=1e-3)
    assert metrics["top5"] == 1


@pytest.mark.parametrize("output, outputs", [("sigmoid", 1), ("softmax", 2)])
def test_the_keras_tutorials_head_learns_two_classes_and_is_measured(run_here, output, outputs):
    # The tutorial's own rate, in its five epochs, is for many more images than these 72.
    run = run_here("cats_dogs_vgg16.yaml", "train.learning_rate=0.01", "train.epochs=30", f"head.output={output}")
    assert read_shapes(run) == {
        "hidden0/weights": [48, 1024],
        "hidden1/weights": [1024, 1024],
        "weights": [1024, outputs],
    }
    check_metrics(run)


def test_the_tflearn_tutorials_head_learns_two_classes_and_is_measured(run_here):
    run = run_here("vgg19_tanh.yaml")
    assert read_shapes(run) == {
        "hidden0/weights": [48, 4096],
        "hidden1/weights": [4096, 512],
        "weights": [512, 2],
    }
    check_metrics(run)


@pytest.mark.parametrize("name", ["caltech101", "caltech256"])
def test_curves_begin_with_a_backbone_that_needs_no_download(name):
    curve = load_config(CONFIGS / f"{name}.yaml", []).curve
    assert curve.backbones[0] == load_config(CONFIGS / f"{name}.yaml", []).backbone
    assert curve.shots == (("15", "30") if name == "caltech101" else ("15", "30", "45", "60"))
    assert curve.draws == 5
