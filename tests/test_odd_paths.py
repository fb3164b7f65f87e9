"""Brackets and other characters of patterns in every path of a run and of the commands over it."""

import csv
import json
import os

import pytest
from toys import paint_images, write_config, write_toy_graph

from components.data.tfrecords import find_tfrecords
from components.predict.inputs import find_inputs
from components.run_dir import RunDir
from components.serve.neighbours import load_training_images
from components.serve.tf_serving import load_served
from components.storage.places import PATTERN, find_matches, plain_folder
from pipeline.cli import main

ODD = r"o [v2] [!a] *?\x {a,b} #%C3 é ~"
CLASS = "[a-z]*? {b} #1"


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """A folder of such a name with images, a class and files of such names too, and a backbone."""
    root = tmp_path_factory.mktemp("odd") / ODD
    root.mkdir()
    images = paint_images(root / "images", per_class=20)
    (images / "cyan").rename(images / CLASS)
    for number, file in enumerate(sorted((images / CLASS).glob("*.*"))):
        file.rename(file.with_name(f"{number} [{number}]*\n{file.suffix}"))
    write_toy_graph(root / "toy [*].pb")
    return root


def config_of(odd, name, **values):
    graph = {"frozen_graph": str(odd / "toy [*].pb"), "input": "input", "bottleneck": "features", "scale": [-1, 1]}
    train = {"epochs": 4, "batch_size": 16, "learning_rate": 0.05}
    evaluate = {"thresholds": {"accuracy": 0.5}, "max_accuracy_drop": 0.9}
    values = {"name": name, "output_dir": str(odd / name), "backbone": graph, "evaluate": evaluate, **values}
    values["train"] = {**train, **values.get("train", {})}
    return str(write_config(odd / f"{name}.yaml", **values, abstain={"precision": 0.3}, beam={"shards": 2}))


@pytest.fixture(scope="module")
def run(odd):
    assert main(["run", config_of(odd, "birds [v2] *", data={"path": str(odd / "images")})]) == 0
    return RunDir(odd / "birds [v2] *")


def read_rows(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_run_is_whole_and_its_second_does_nothing(odd, run, capsys):
    record = json.loads(run.record.read_text())
    assert (record["blessed"], record["counts"]["written"], record["counts"]["rejected"]) == (True, 60, 0)
    assert record["classes"] == {CLASS: 20, "magenta": 20, "yellow": 20}
    assert main(["run", str(odd / "birds [v2] *.yaml")]) == 0
    assert capsys.readouterr().out.count("as before") == 8
    # The checkpoint that was best is the only one, and no other folder got anything.
    assert len(list(run.model.glob("model.ckpt-*.index"))) == 1
    assert {path.name for path in odd.iterdir()} == {"images", "toy [*].pb", run.root.name, "birds [v2] *.yaml"}


def test_predictions_by_folder_pattern_and_beam_are_those_that_were_evaluated(odd, run):
    (export,) = map(str, run.exports.iterdir())
    places = [str(odd / "images" / CLASS), str(odd / "images" / "magenta"), str(odd / "images" / "y*" / "**" / "*.*")]
    for output, words in (("[o] *.csv", []), ("[beam].csv", ["--beam", "shards=2"])):
        assert main(["predict", export, *places, "--output", str(odd / output), *words]) == 0
    assert (odd / "[o] *.csv").read_bytes() == (odd / "[beam].csv").read_bytes()
    predicted = {os.path.relpath(row["path"], odd / "images"): row["label"] for row in read_rows(odd / "[o] *.csv")}
    assert len(predicted) == 60
    evaluated = read_rows(run.predictions)
    assert evaluated and all(predicted[row["path"]] == row["label"] for row in evaluated)


def test_other_commands_find_the_run(odd, run, capsys):
    config = str(odd / "birds [v2] *.yaml")
    assert main(["curve", config, "--shots", "4", "--draws", "1"]) == 0
    assert main(["export", str(run.root), "--to", "tflite"]) == 0
    assert "float       accuracy" in capsys.readouterr().out
    served = load_served(run.exports, "name")
    assert served.classifier.labels == [CLASS, "magenta", "yellow"]
    image = next((odd / "images" / "yellow").rglob("*.png")).read_bytes()
    assert load_training_images(served.folder).find_nearest(image)[0].cosine > 0.8


def test_a_run_builds_on_another_over_its_records_in_place_of_the_images(odd, run):
    (odd / "labels [1].txt").write_text(f"yellow\n{CLASS}\nmagenta\n")
    config = config_of(
        odd,
        "next ?",
        data={"path": str(run.examples), "labels": str(odd / "labels [1].txt")},
        train={"warm_start": str(run.root)},
        validation={"baseline": str(run.root), "on_anomaly": "warn"},
    )
    assert main(["run", config]) == 0
    record = json.loads((odd / "next ?" / "run.json").read_text())
    assert record["classes"] == {"yellow": 20, CLASS: 20, "magenta": 20}
    first, second = (json.loads((odd / name / "run.json").read_text()) for name in ("birds [v2] *", "next ?"))
    assert [second["counts"][split] for split in ("train", "val", "test")] == [
        first["counts"][split] for split in ("train", "val", "test")
    ]


def test_a_pattern_may_stand_below_a_folder_of_such_a_name(odd, run):
    assert len(list(find_inputs([odd / "images" / CLASS / "* [[]*"]))) > 3
    assert len(find_tfrecords(str(run.examples / "train-*.tfrecord"))) == 2
    assert find_matches(odd / "birds [v]*") == []
    assert find_matches(odd / "birds*")[0] == run.root


def test_a_link_stands_for_a_folder_only_where_its_path_needs_one(odd, tmp_path, monkeypatch):
    with plain_folder(tmp_path) as plain:
        assert plain == tmp_path
    with plain_folder(odd / "images") as plain:
        assert not PATTERN.search(str(plain)) and (plain / "magenta").is_dir()
        (plain / "new").mkdir()
    assert not os.path.lexists(plain) and (odd / "images" / "new").is_dir()
    (odd / "images" / "new").rmdir()
    monkeypatch.chdir(odd)
    with plain_folder(odd.relative_to(odd) / "images") as plain:
        assert not PATTERN.search(os.path.abspath(plain))
