"""The whole pipeline: painted images with a toy backbone, digits with the real one."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from toys import check_bottlenecks_agree, quiet_progress, write_config

from components.run_dir import RunDir
from pipeline.cli import main

ROOT = Path(__file__).parents[2]


def read_record(run):
    return json.loads(run.record.read_text())


def test_the_run_directory_is_as_the_contract_says(toy_run):
    names = {str(path.relative_to(toy_run.root)) for path in toy_run.root.rglob("*")}
    assert {
        "run.json",
        "examples/train-00000-of-00002.tfrecord",
        "examples/labels.txt",
        "examples/rejects.jsonl",
        "validation/schema.pbtxt",
        "validation/anomalies.json",
        "model/checkpoint",
        "evaluation/BLESSED",
        "report/index.html",
        "report/confusion.csv",
        "report/classes.csv",
        "report/mistakes.csv",
        "report/history.csv",
        "report/summary.json",
    } <= names
    assert not [name for name in names if "partial" in name]


def test_the_record_is_as_the_contract_says(toy_run):
    record = read_record(toy_run)
    assert list(record) == [
        *("version", "config", "backbone", "stages", "counts", "classes", "metrics"),
        *("verdict", "gated", "blessed", "reasons", "notes"),
    ]
    assert list(record["stages"]) == [
        "ingest",
        "validate",
        "extract",
        "audit",
        "train",
        "export",
        "evaluate",
        "report",
    ]
    assert all(
        set(stage) == {"seconds", "items", "reused", "computed", "skipped"} for stage in record["stages"].values()
    )
    counts = record["counts"]
    assert counts["found"] == counts["written"] + counts["rejected"] == 181
    assert counts["train"] + counts["val"] + counts["test"] == counts["written"] == 180
    assert (record["verdict"], record["gated"], record["blessed"], record["reasons"]) == ("BLESSED", True, True, [])
    unchecked = "max_accuracy_drop was not checked, as there is no earlier blessed model in this run directory."
    assert unchecked in record["notes"]
    assert list(record["metrics"]) == ["accuracy", "top5", "loss", "mean_class_accuracy", "min_class_recall"]
    assert 0.7 <= record["metrics"]["accuracy"] <= 1


def test_two_runs_from_scratch_give_identical_predictions_and_bottlenecks(toy_run, toy_config, tmp_path):
    config = write_config(tmp_path / "c.yaml", **{**toy_config, "output_dir": str(tmp_path / "run")})
    assert main(["run", str(config)]) == 0
    again = RunDir(tmp_path / "run")
    assert again.predictions.read_bytes() == toy_run.predictions.read_bytes()
    shards = sorted(toy_run.root.glob("bottlenecks/*/*.tfrecord"))
    assert len(shards) == 6
    for shard in shards:
        assert (again.root / shard.relative_to(toy_run.root)).read_bytes() == shard.read_bytes()


def test_only_and_from_and_a_change_run_what_they_should(toy_run, toy_config, tmp_path, capsys):
    import shutil

    shutil.copytree(toy_run.root, tmp_path / "run")
    run = RunDir(tmp_path / "run")
    config = str(write_config(tmp_path / "c.yaml", **{**toy_config, "output_dir": str(run.root)}))

    def stages_run(*arguments):
        main(["run", config, *arguments])
        return [name for name, stage in read_record(run)["stages"].items() if not stage["skipped"]]

    assert stages_run() == []
    assert stages_run("--only", "validate") == ["validate"]
    assert stages_run("train.epochs=3") == ["train", "export", "evaluate", "report"]
    assert stages_run("train.epochs=3", "evaluate.thresholds.accuracy=0.1") == ["evaluate", "report"]
    assert stages_run("train.epochs=3", "evaluate.thresholds.accuracy=0.1", "--from", "report") == ["report"]


@pytest.mark.parametrize("pattern", ["bottlenecks/*/train-*", "bottlenecks/*/test-*", "examples/val-*"])
def test_a_damaged_shard_is_computed_again_and_the_run_ends_as_before(toy_run, toy_config, tmp_path, capsys, pattern):
    import shutil

    shutil.copytree(toy_run.root, tmp_path / "run")
    run = RunDir(tmp_path / "run")
    (damaged, *_) = sorted(run.root.glob(pattern))
    healthy = damaged.read_bytes()
    damaged.write_bytes(healthy[:200] + bytes([healthy[200] ^ 1]) + healthy[201:])
    # Another bottleneck folder makes extract read the examples; a stage that is done does not read them again.
    changed = {"extract": {"engine": "openvino"}} if pattern.startswith("examples") else {"seed": 0}
    train = {**toy_config["train"], "epochs": 7}
    config = write_config(tmp_path / "c.yaml", **{**toy_config, **changed, "train": train, "output_dir": str(run.root)})
    assert main(["run", str(config)]) == 0
    assert f"'{damaged}' was damaged and is computed again" in capsys.readouterr().err
    assert damaged.read_bytes() == healthy


def test_a_model_that_averages_views_serves_what_was_measured(toy_config, tmp_path):
    import tensorflow as tf

    from components.export.versions import list_versions

    augment = {"flip": True, "crops": 2, "average": True}
    config = write_config(
        tmp_path / "c.yaml", **{**toy_config, "augment": augment, "output_dir": str(tmp_path / "run")}
    )
    assert main(["run", str(config)]) == 0
    run = RunDir(tmp_path / "run")
    with run.predictions.open(newline="") as file:
        rows = list(csv.DictReader(file))
    encoded = [(Path(toy_config["data"]["path"]) / row["path"]).read_bytes() for row in rows]
    predict = tf.saved_model.load(str(list_versions(run.exports)[-1])).signatures["serving_default"]
    served = predict(image_bytes=tf.constant(encoded))
    assert served["index"].numpy().tolist() == [int(row["index"]) for row in rows]
    np.testing.assert_allclose(
        served["probabilities"].numpy().max(1), [float(row["probability"]) for row in rows], atol=1e-4
    )


def test_a_run_without_limits_ends_well_and_its_notes_stay(toy_backbone, tmp_path, capsys):
    """Of patterns without a class, a test image is like a training image, and two of different classes are alike."""
    random = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 4), ("test", 4)):
        for label in ("ant", "bee", "cat"):
            folder = tmp_path / "images" / split / label
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = np.kron(random.integers(0, 256, (4, 4, 3)), np.ones((8, 8, 1))).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    train, test = tmp_path / "images" / "train", tmp_path / "images" / "test"
    pixels = np.array(Image.open(train / "bee" / "0.png"))
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(test / "bee" / "0.png")
    Image.open(train / "ant" / "1.png").save(train / "cat" / "1.bmp")  # other bytes, the same pixels
    values = {"name": "t", "data": {"path": str(tmp_path / "images")}, "backbone": toy_backbone}
    config = write_config(tmp_path / "c.yaml", **values, output_dir=str(tmp_path / "run"), train={"epochs": 2})
    printed = []
    for _ in range(2):
        assert main(["run", str(config)]) == 0
        printed.append([line for line in capsys.readouterr().out.splitlines() if line.startswith(("note:", "NOT"))])
    assert printed[0] == printed[1]
    record = read_record(RunDir(tmp_path / "run"))
    assert (record["verdict"], record["gated"], record["blessed"]) == ("NOT GATED", False, False)
    assert printed[0][-1].endswith("add one to the config, such as evaluate: {thresholds: {accuracy: 0.9}}")
    assert printed[0][:-1] == [f"note: {text}" for text in record["notes"]]
    equal, *_, leaks = record["notes"]
    assert equal.startswith("2 images of different classes have equal bottlenecks")
    assert equal.endswith("the first are 'train/ant/1.png' (ant) and 'train/cat/1.bmp' (cat).")
    assert leaks.startswith("1 test image has a near-duplicate in the train or val split")


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits") / "run"
    command = [str(Path(sys.executable).parent / "topgraft"), "run", "configs/digits.yaml", f"output_dir={folder}"]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT), RunDir(folder)


def test_digits_are_blessed_with_the_real_backbone(digits):
    result, run = digits
    assert result.returncode == 0, result.stderr
    record = read_record(run)
    assert record["backbone"]["name"] == "efficientnet_lite0"
    assert record["counts"]["found"] == record["counts"]["written"] == 1797
    assert record["metrics"]["accuracy"] >= 0.90
    assert "BLESSED" in result.stdout and str(run.report / "index.html") in result.stdout


def test_libraries_keep_quiet(digits):
    result, _ = digits
    assert not [line for line in result.stderr.splitlines() if line.strip()]


def test_extraction_the_saved_model_and_the_backbone_agree_on_bottlenecks(digits, toy_run, toy_config):
    from components.data.published import locate_dataset

    check_bottlenecks_agree(digits[1], locate_dataset("digits", quiet_progress()))
    check_bottlenecks_agree(toy_run, Path(toy_config["data"]["path"]))


def test_real_bottlenecks_and_image_bytes_give_the_same_index_for_every_test_image(digits):
    import tensorflow as tf

    from components.data.published import locate_dataset
    from components.export.versions import list_versions

    _, run = digits
    with run.predictions.open(newline="") as file:
        rows = list(csv.DictReader(file))
    encoded = [(locate_dataset("digits", quiet_progress()) / row["path"]).read_bytes() for row in rows]
    predict = tf.saved_model.load(str(list_versions(run.exports)[-1])).signatures["serving_default"]
    indices = [
        i
        for start in range(0, len(rows), 50)
        for i in predict(image_bytes=tf.constant(encoded[start : start + 50]))["index"].numpy()
    ]
    assert indices == [int(row["index"]) for row in rows]
