"""pipeline.run and pipeline.load, on the toy run; tests/test_notebook.py uses them in a notebook."""

import csv
import errno
import io
import logging
import os
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from toys import encode_noise, refusal, write_config

import pipeline
from components.export.versions import list_versions
from pipeline.cli import main

LOADED = """
import sys
import pipeline
print(*sys.modules)
import pipeline.cli, pipeline.commands, pipeline.load_config, pipeline.api, pipeline.pipeline
assert pipeline.run is pipeline.api.run and pipeline.load is pipeline.api.load
"""


def read_rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def config(toy_run, toy_config, tmp_path_factory):
    """The config of the toy run, which has ended."""
    return write_config(tmp_path_factory.mktemp("api") / "toy.yaml", **toy_config)


@pytest.fixture(scope="module")
def model(toy_run):
    return pipeline.load(toy_run.root)


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encode_noise(1)[0])
    return path


def test_importing_loads_nothing_heavy_and_run_stays_the_function():
    result = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=True)
    heavy = {"tensorflow", "apache_beam", "pandas", "numpy", "pydantic", "rich", "PIL", "yaml"}
    assert not heavy & set(result.stdout.split())


def test_a_run_has_what_the_command_records_and_its_report_shows(config, toy_run, capsys):
    run = pipeline.run(config)
    rows = read_rows(toy_run.report / "confusion.csv")
    assert run.accuracy == run.record["metrics"]["accuracy"]
    assert (run.folder, run.verdict, run.blessed) == (toy_run.root, "BLESSED", True)
    assert run.report == toy_run.report / "index.html" and run.report.exists()
    assert run.confusion.index.tolist() == run.confusion.columns.tolist() == ["cyan", "magenta", "yellow"]
    assert run.confusion.loc["cyan"].to_dict() == {name: int(rows[0][name]) for name in run.confusion.columns}
    assert run.confusion.to_numpy().sum() == run.record["counts"]["test"]
    assert np.trace(run.confusion) / run.confusion.to_numpy().sum() == pytest.approx(run.accuracy)
    assert run.mistakes["path"].tolist() == [row["path"] for row in read_rows(toy_run.report / "mistakes.csv")]
    assert list(run.mistakes.columns) == ["path", "actual", "predicted", "probability"]
    shown = capsys.readouterr().out
    assert main(["run", str(config)]) == 0
    assert capsys.readouterr().out == shown


def test_a_quiet_run_prints_the_verdict_alone(config, capsys):
    pipeline.run(str(config), quiet=True)
    assert capsys.readouterr().out == "BLESSED\n"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"trian.epochs": 2}, "Unknown key 'trian'; did you mean 'train'?"),
        ({"train.epochs": "many"}, "'train.epochs' is 'many'"),
        ({"data.path": "nowhere # 1 🦉"}, "There is no folder 'nowhere # 1 🦉'"),
        ({"data": {"path": Path("nowhere")}}, "There is no folder 'nowhere'"),
        ({"train": {"epochs": np.int64(3), "batch_size": -1}}, "'train.batch_size' is -1"),
    ],
)
def test_a_mistake_is_the_sentence_of_the_command(config, overrides, words):
    assert words in refusal(pipeline.run, config, overrides)


def test_values_of_python_and_numpy_reach_the_config(config, monkeypatch):
    given = []
    monkeypatch.setattr("pipeline.commands.run_place", lambda *arguments: given.extend(arguments) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        pipeline.run("~/a.yaml", {"seed": np.int64(3), "name": "1 # é", "data.exclude": ("a", "b"), "abstain": None})
    assert given == [
        Path.home() / "a.yaml",
        ["seed=3", 'name="1 # é"', 'data.exclude=["a", "b"]', "abstain=null"],
        (),
        False,
    ]


def test_an_interrupted_run_continues_where_it_stopped(toy_config, tmp_path, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    path = write_config(tmp_path / "toy.yaml", **{**toy_config, "output_dir": str(tmp_path / "run")})
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("components.extract.write_shards.ExtractShard._extract", interrupt)
        pipeline.run(path)
    stages = pipeline.run(path).record["stages"]
    assert [name for name, stage in stages.items() if stage["skipped"]] == ["ingest", "validate"]


def test_a_full_disk_is_the_sentence_of_the_command(config, monkeypatch):
    def fail(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/a/b")

    monkeypatch.setattr("pipeline.commands.run_whole", fail)
    assert "'/a/b' cannot be written (no space left on device): free space" in refusal(pipeline.run, config)


def test_a_run_in_another_thread_ends(config):
    runs = []
    thread = threading.Thread(target=lambda: runs.append(pipeline.run(config)))
    thread.start()
    thread.join()
    assert runs[0].blessed


def test_logging_and_warnings_are_as_before(config, monkeypatch):
    monkeypatch.setattr(logging.getLogger(), "level", logging.INFO)
    filters = list(warnings.filters)
    pipeline.run(config)
    assert logging.getLogger().level == logging.INFO and warnings.filters == filters


def test_a_model_of_a_run_answers_as_its_evaluation_measured(model, toy_run, toy_config):
    assert model.export == list_versions(toy_run.exports)[-1]
    assert model.labels == ["cyan", "magenta", "yellow"]
    rows = read_rows(toy_run.predictions)
    predictions = model.predict(Path(toy_config["data"]["path"]) / row["path"] for row in rows)
    assert [one.label for one in predictions] == [row["label"] for row in rows]
    for one, row in zip(predictions, rows, strict=True):
        assert one.probability == pytest.approx(float(row["probability"]), abs=1e-4)
        assert list(one.probabilities)[:2] == [row["label"], row["label_2"]]
        assert sum(one.probabilities.values()) == pytest.approx(1, abs=1e-5)
        assert one.probability == one.probabilities[one.label] and one.abstained is False


def test_a_path_bytes_an_array_and_a_pillow_image_get_the_same_answer(model, photo):
    image = Image.open(photo)
    predictions = model.predict([str(photo), photo, photo.read_bytes(), np.asarray(image), image])
    for one in predictions[1:]:
        assert one.probabilities == pytest.approx(predictions[0].probabilities, abs=1e-6)
    assert model.predict([]) == []


def test_arrays_of_one_channel_are_grey_and_a_batch_is_a_list(model):
    batch = np.random.default_rng(0).integers(0, 256, (3, 20, 30), np.uint8)
    grey = model.predict(batch)
    for one, other in zip(grey, model.predict(np.stack([batch] * 3, -1)), strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-6)


def test_a_pillow_image_is_upright_as_its_file_is(model, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(io.BytesIO(encode_noise(1)[0])).save(tmp_path / "turned.png", exif=exif)
    file, image = model.predict([tmp_path / "turned.png", Image.open(tmp_path / "turned.png")])
    assert image.probabilities == pytest.approx(file.probabilities, abs=1e-6)


def test_images_that_cannot_be_read_are_named_by_position_with_their_reasons(model, photo):
    bad = ["gone.jpg", b"no image", np.zeros((2, 2)), np.zeros((2, 0), np.uint8), Image.new("F", (2, 2)), 7]
    with pytest.raises(pipeline.UserError) as caught:
        model.predict([photo, *bad, photo])
    for words in (
        "6 of 8 images cannot be read: image 1 ('gone.jpg', unreadable: No such file or directory), ",
        "image 2 (not an image: starts with b'no image'), ",
        "image 3 (unsupported: an array float64[2, 2], where uint8[H, W, 3] or uint8[H, W] is expected), ",
        "image 4 (unsupported: an array uint8[2, 0], ",
        "image 5 (unsupported: an image of the mode F and 2x2 pixels, which PNG does not support: convert it to RGB), ",
        "image 6 (unsupported: an object of the type int, where a path, ",
    ):
        assert words in str(caught.value)


@pytest.mark.parametrize("alone", ["a.png", Path("a.png"), b"\x89PNG", np.zeros((9, 9, 3), np.uint8), np.zeros((9, 9))])
def test_one_image_without_a_list_is_refused(model, alone):
    assert "give it a list of images, as in model.predict([image])" in refusal(model.predict, alone)


def test_a_place_without_a_model_is_refused(tmp_path):
    assert f"'{tmp_path}' holds no exported model: give" in refusal(pipeline.load, str(tmp_path))
