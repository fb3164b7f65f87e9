"""Runs in Cloud Storage: an emulator of it, in processes of their own, as TensorFlow is told of it when it loads."""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from toys import paint_images

from components.run_dir import RunDir
from components.storage.places import as_path, list_files, local_copy, upload

ROOT = Path(__file__).parents[1]
BUCKET = as_path("gs://bucket")
# One process for several commands, as loading TensorFlow takes longer than most of them.
COMMANDS = """
import json, sys
from components.storage.places import as_path
from pipeline.cli import main

def look(export, image):
    import numpy as np
    from components.serve.neighbours import load_training_images
    from components.serve.tf_serving import load_served
    served, encoded = load_served(as_path(export), None), as_path(image).read_bytes()
    (answer,) = served.classifier.compute([encoded])
    nearest = load_training_images(served.folder).find_nearest(encoded)
    label = served.classifier.labels[np.argmax(answer.probabilities)]
    return [served.name, label, nearest[0].cosine, all(neighbour.picture for neighbour in nearest)]

answers = [look(*words[1:]) if words[0] == "look" else main([*words, "--quiet"]) for words in json.load(sys.stdin)]
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def give(storage, tmp_path_factory):
    """Run commands where Cloud Storage is the emulator, in an empty folder that must stay so; return their statuses."""
    folder = tmp_path_factory.mktemp("working_directory")
    environment = {**os.environ, **storage, "PYTHONPATH": str(ROOT)}

    def run(*commands):
        result = subprocess.run(
            [sys.executable, "-c", COMMANDS],
            input=json.dumps(commands),
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stderr
        assert not list(folder.iterdir()), "a remote path was taken for a local one"
        return json.loads(result.stdout.splitlines()[-1])

    return run


@pytest.fixture(scope="module")
def first(give, toy_config, tmp_path_factory):
    """A copy of the toy run as it has ended in Cloud Storage, of images and a backbone that lie there."""
    upload(Path(toy_config["data"]["path"]), BUCKET / "images")
    upload(Path(toy_config["backbone"]["frozen_graph"]), BUCKET / "toy.pb")
    config = {
        **toy_config,
        "output_dir": "gs://bucket/runs/toy",
        "data": {"path": "gs://bucket/images"},
        "backbone": {**toy_config["backbone"], "frozen_graph": "gs://bucket/toy.pb"},
    }
    (BUCKET / "toy.yaml").write_text(yaml.safe_dump(config))
    assert give(["run", "gs://bucket/toy.yaml"]) == [0]
    with local_copy(BUCKET / "runs" / "toy") as copy:
        return RunDir(copy.rename(tmp_path_factory.mktemp("first") / "toy"))


@pytest.fixture(scope="module")
def answers(give, first):
    """The answers of commands over the finished run."""
    export = f"gs://bucket/runs/toy/export/{next(first.exports.iterdir()).name}"
    files = ["gs://bucket/images/cyan", "gs://bucket/images/magenta/camera", "gs://bucket/images/y*/*/*.jpg"]
    return give(
        ["run", "gs://bucket/toy.yaml"],
        ["predict", export, *files, "--output", "gs://bucket/predictions.csv"],
        ["predict", "gs://bucket/runs/toy", *files, "--output", "gs://bucket/job.csv", "--beam", "shards=2"],
        ["export", "gs://bucket/runs/toy", "--to", "tflite"],
        ["look", "gs://bucket/runs/toy/export", "gs://bucket/images/cyan/camera/000.jpg"],
    )


def split_numbers(text):
    """Return a text without its numbers of six digits after the point, and these."""
    return re.split(r"\d\.\d{6}", text), [float(number) for number in re.findall(r"\d\.\d{6}", text)]


def read_record(run):
    return json.loads(run.record.read_text())


def test_a_run_in_the_cloud_ends_as_the_same_run_here(toy_run, first):
    def names(run):
        return {name for name in list_files(run.root) if not name.startswith(("export/", "model/"))}  # they bear times

    assert names(first) == names(toy_run)
    same = [name for name in names(first) if name.startswith(("examples/", "bottlenecks/")) and "files-" not in name]
    assert len(same) == 6 + 6 + 5 + 2  # the last two are the marks
    for name in (*same, "audit/near_duplicates.csv"):
        assert (first.root / name).read_bytes() == (toy_run.root / name).read_bytes(), name
    # The last digit depends on what is beside an image in TFMA's batch.
    for name in ("evaluation/predictions.csv", "report/mistakes.csv"):
        found, expected = (split_numbers((root / name).read_text()) for root in (first.root, toy_run.root))
        assert found[0] == expected[0], name
        assert found[1] == pytest.approx(expected[1], abs=1e-5), name
    assert read_record(first)["metrics"] == pytest.approx(read_record(toy_run)["metrics"])


def test_a_second_run_in_the_cloud_does_nothing(answers):
    assert answers[0] == 0
    stages = read_record(RunDir(BUCKET / "runs" / "toy"))["stages"]
    assert len(stages) == 8 and all(stage["skipped"] for stage in stages.values())


def test_an_export_in_the_cloud_predicts_images_there_as_evaluation_did(answers, first):
    assert answers[1] == 0
    with (BUCKET / "predictions.csv").open(encoding="utf-8", newline="") as file:
        predicted = {row["path"].removeprefix("gs://bucket/images/"): row for row in csv.DictReader(file)}
    # All of cyan but the broken one, a third of magenta, and the JPEGs of yellow that lie in folders.
    assert len(predicted) == 60 + 20 + 10
    with first.predictions.open(newline="") as file:
        measured = [row for row in csv.DictReader(file) if row["path"] in predicted]
    assert len(measured) > 5
    for row in measured:
        assert predicted[row["path"]]["label"] == row["label"]
        assert abs(float(predicted[row["path"]]["probability"]) - float(row["probability"])) < 1e-4


def test_a_job_in_the_cloud_writes_what_a_plain_prediction_writes(answers):
    assert answers[2] == 0
    assert (BUCKET / "job.csv").read_bytes() == (BUCKET / "predictions.csv").read_bytes()
    assert [name for name in list_files(BUCKET) if "partial" in name] == []


def test_an_export_in_the_cloud_is_converted(answers, first):
    assert answers[3] == 0
    (folder,) = {Path(name).parent.name for name in list_files(BUCKET / "runs" / "toy" / "tflite")}
    comparison = json.loads((BUCKET / "runs" / "toy" / "tflite" / folder / "comparison.json").read_text())
    assert comparison["accuracy"] == pytest.approx(read_record(first)["metrics"]["accuracy"])


def test_an_export_in_the_cloud_is_served_with_its_training_images(answers):
    name, label, cosine, pictures = answers[4]
    assert (name, label, pictures) == ("toy", "cyan", True)
    assert 0.9 < cosine <= 1


@pytest.mark.skipif("TOPGRAFT_TEST_SLOW" not in os.environ, reason="takes minutes: set TOPGRAFT_TEST_SLOW")
def test_runs_in_the_cloud_build_on_others_there(answers, give, tmp_path):
    upload(paint_images(tmp_path / "more", per_class=10, seed=1), BUCKET / "images" / "cyan" / "more")
    (BUCKET / "labels.txt").write_text("yellow\nmagenta\ncyan\n")
    former = ["train.warm_start=gs://bucket/runs/toy", "validation.baseline=gs://bucket/runs/toy"]
    grown = ["run", "gs://bucket/toy.yaml", "validation.on_anomaly=warn", "data.labels=gs://bucket/labels.txt"]
    assert {0, 3}.issuperset(give(["run", "gs://bucket/toy.yaml", "output_dir=gs://bucket/runs/next", *former], grown))
    record = read_record(RunDir(BUCKET / "runs" / "toy"))
    assert record["stages"]["ingest"] == {**record["stages"]["ingest"], "items": 211, "reused": 181, "computed": 30}
    assert record["stages"]["extract"] == {**record["stages"]["extract"], "items": 210, "reused": 180, "computed": 30}
    assert (BUCKET / "runs" / "toy" / "examples" / "labels.txt").read_text() == "yellow\nmagenta\ncyan\n"
    record = read_record(RunDir(BUCKET / "runs" / "next"))
    assert record["config"]["train"]["warm_start"] == "gs://bucket/runs/toy"
    assert not any(stage["skipped"] for stage in record["stages"].values())
