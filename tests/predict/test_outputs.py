import csv
import json
import os
import shutil
import weakref
from pathlib import Path

import numpy as np
import pytest
from toys import encode_noise, paint_images, refusal, write_config

from components.export.versions import list_versions, read_facts
from components.predict import outputs as prediction_files
from components.predict.outputs import WRITERS, check_output, write_predictions
from components.predict.predict import PREDICTION_BATCH, Answer, Classifier
from components.run_dir import RunDir
from pipeline.cli import main


@pytest.fixture(scope="module")
def export(toy_run):
    return str(list_versions(toy_run.exports)[-1])


@pytest.fixture(scope="module")
def abstaining(toy_run, toy_config, tmp_path_factory):
    """The toy run's model, exported with a threshold."""
    folder = tmp_path_factory.mktemp("abstaining")
    shutil.copytree(toy_run.root, folder / "run")
    config = {**toy_config, "output_dir": str(folder / "run"), "abstain": {"precision": 0.95}}
    assert main(["run", str(write_config(folder / "c.yaml", **config)), "--only", "export"]) == 0
    return list_versions(RunDir(folder / "run").exports)[-1]


@pytest.fixture
def images(tmp_path):
    return paint_images(tmp_path / "new", per_class=15, seed=9)


def read_csv(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def read_jsonl(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_csv_and_jsonl_hold_a_row_for_every_image_in_input_order(export, images, tmp_path, capsys):
    for suffix in ("csv", "jsonl"):
        assert main(["predict", export, str(images), "--output", str(tmp_path / f"out.{suffix}")]) == 0
    rows = read_csv(tmp_path / "out.csv")
    assert [row["path"] for row in rows] == sorted(str(file) for file in images.rglob("*.*"))
    right = [Path(row["path"]).relative_to(images).parts[0] == row["label"] for row in rows]
    assert np.mean(right) > 0.7
    lines = read_jsonl(tmp_path / "out.jsonl")
    assert all(isinstance(line["probability"], float) and isinstance(line["index"], int) for line in lines)
    texts = [
        {key: f"{value:.6f}" if isinstance(value, float) else str(value) for key, value in line.items()}
        for line in lines
    ]
    assert texts == rows
    assert "45 predicted, 0 unreadable" in capsys.readouterr().err


def test_rows_follow_the_arguments(export, images, tmp_path):
    places = [str(images / "yellow"), str(images / "cyan" / "*" / "*.jpg"), *map(str, images.glob("magenta/*.gif"))]
    assert main(["predict", export, *places, "--output", str(tmp_path / "out.csv"), "--top", "1"]) == 0
    rows = read_csv(tmp_path / "out.csv")
    assert list(rows[0]) == ["path", "label", "probability", "index"]
    folders = [Path(row["path"]).relative_to(images).parts[0] for row in rows]
    assert list(dict.fromkeys(folders)) == ["yellow", "cyan", "magenta"]
    assert sorted(folders) == folders[15:-1] + folders[-1:] + folders[:15]


def test_an_unlabelled_test_folder_beside_train_is_predicted(export, images, tmp_path):
    (tmp_path / "data" / "test").mkdir(parents=True)
    for number, file in enumerate(sorted(images.rglob("*.png"))):
        shutil.copy(file, tmp_path / "data" / "test" / f"{number:03d}.png")
    folder = tmp_path / "data" / "test"
    assert main(["predict", export, str(folder), "--output", str(tmp_path / "out.csv")]) == 0
    assert [row["path"] for row in read_csv(tmp_path / "out.csv")] == sorted(map(str, folder.iterdir()))


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_corrupt_image_is_listed_and_the_rest_is_predicted(export, images, tmp_path, capsys, suffix):
    (images / "cyan" / "bad.jpg").write_bytes(b"\xff\xd8\xff no")
    output = tmp_path / f"out{suffix}"
    assert main(["predict", export, str(images), "--output", str(output)]) == 0
    errors = capsys.readouterr().err
    assert "bad.jpg: corrupt: damaged JPEG" in errors
    assert "45 predicted, 1 unreadable" in errors
    assert output.read_text().count("bad.jpg") == (1 if suffix == ".html" else 0)
    assert list(tmp_path.glob("*.partial")) == []


def test_a_class_named_as_a_script_stays_text(export, images, tmp_path):
    moved = tmp_path / "export"
    shutil.copytree(export, moved)
    (moved / "assets" / "labels.txt").write_text("<script>\n=1+1\nyellow\n")
    (moved / "checksums.json").unlink()
    for suffix in WRITERS:
        assert main(["predict", str(moved), str(images), "--output", str(tmp_path / f"out{suffix}")]) == 0
    page = (tmp_path / "out.html").read_text()
    assert page.count("<script") == 1 and "&lt;script&gt;" in page  # the one of the evidence
    labels = [line["label"] for line in read_jsonl(tmp_path / "out.jsonl")]
    assert set(labels) == {"<script>", "=1+1", "yellow"}
    assert [row["label"] for row in read_csv(tmp_path / "out.csv")] == [
        label.replace("=1+1", "'=1+1") for label in labels
    ]


@pytest.fixture
def always_first():
    """A classifier that needs no model: of two classes always the first."""
    return Classifier(["@one", "two"], lambda encoded: [Answer(np.array([0.75, 0.25], np.float32)) for _ in encoded])


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n"])
def test_a_path_that_a_spreadsheet_would_compute_is_quoted_in_csv_alone(always_first, tmp_path, monkeypatch, start):
    monkeypatch.chdir(tmp_path)
    name = f"{start}1+1.png"
    Path(name).write_bytes(encode_noise(1)[0])
    for suffix in (".csv", ".jsonl"):
        write_predictions(always_first, [name], Path(f"out{suffix}"), 2)
    with open("out.csv", newline="") as file:
        _, row = csv.reader(file)
    assert row == [f"'{name}", "'@one", "0.750000", "0", "two", "0.250000"]
    (line,) = read_jsonl(Path("out.jsonl"))
    assert (line["path"], line["label"]) == (name, "@one")


def test_abstained_stands_in_every_format(abstaining, images, tmp_path, capsys):
    for suffix in WRITERS:
        assert main(["predict", str(abstaining), str(images), "--output", str(tmp_path / f"out{suffix}")]) == 0
    lines = read_jsonl(tmp_path / "out.jsonl")
    threshold = read_facts(abstaining)["abstention"]["threshold"]
    expected = [line["probability"] < threshold for line in lines]
    assert 0 < sum(expected) < len(expected)
    assert [line["abstained"] for line in lines] == expected
    assert [row["abstained"] for row in read_csv(tmp_path / "out.csv")] == [str(value).lower() for value in expected]
    figures = (tmp_path / "out.html").read_text().split("<figure")[1:]
    assert [">abstained<" in figure.split("</figure>")[0] for figure in figures] == expected
    capsys.readouterr()
    assert main(["predict", str(abstaining), str(images), "--top", "1"]) == 0
    assert capsys.readouterr().out.splitlines().count("  abstained") == sum(expected)


def test_the_terminal_gets_the_path_and_a_line_a_class(export, images, capsys):
    (image,) = images.glob("cyan/camera/000.*")
    assert main(["predict", export, str(image), "--top-k", "2"]) == 0
    path, *lines = capsys.readouterr().out.splitlines()
    assert path == str(image)
    probabilities, labels = zip(*(line.split() for line in lines), strict=True)
    assert len(labels) == 2 and set(labels) < {"cyan", "magenta", "yellow"}
    assert float(probabilities[0]) >= float(probabilities[1])


@pytest.mark.parametrize("suffix", ["", *WRITERS])
def test_a_name_that_is_not_unicode_is_written_with_escapes(always_first, tmp_path, capsys, suffix):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png")
    Path(path).write_bytes(encode_noise(1)[0])
    output = tmp_path / f"out{suffix}" if suffix else None
    write_predictions(always_first, [path], output, 1)
    assert "\\udcff.png" in (output.read_text() if output else capsys.readouterr().out)


@pytest.mark.parametrize("suffix", WRITERS)
def test_answers_are_not_kept(tmp_path, suffix, monkeypatch):
    monkeypatch.setattr("components.predict.gallery.CARDS_SHOWN", 3)
    (tmp_path / "x.png").write_bytes(encode_noise(1)[0])
    answers = weakref.WeakSet()

    class Row(np.ndarray):
        __hash__ = object.__hash__

    def compute(encoded):
        rows = [np.array([0.75, 0.25], np.float32).view(Row) for _ in encoded]
        answers.update(rows)
        return [Answer(row) for row in rows]

    def files():
        for _ in range(10 * PREDICTION_BATCH):
            assert len(answers) <= 2 * PREDICTION_BATCH
            yield str(tmp_path / "x.png")

    write_predictions(Classifier(["a", "b"], compute), files(), tmp_path / f"out{suffix}", 1)


@pytest.mark.parametrize("suffix", WRITERS)
def test_what_fails_midway_leaves_the_old_file(tmp_path, suffix):
    (tmp_path / "x.png").write_bytes(encode_noise(1)[0])
    output = tmp_path / f"out{suffix}"
    output.write_text("old")

    def compute(encoded):
        if len(encoded) < PREDICTION_BATCH:
            raise KeyboardInterrupt
        return [Answer(np.array([1, 0], np.float32))] * len(encoded)

    with pytest.raises(KeyboardInterrupt):
        files = [str(tmp_path / "x.png")] * (PREDICTION_BATCH + 1)
        write_predictions(Classifier(["a", "b"], compute), files, output, 1)
    assert output.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == [output.name, "x.png"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["EXPORT", "nowhere.jpg"], "no file or folder 'nowhere.jpg'"),
        (["EXPORT", "EMPTY"], "There is no image in"),
        (["EXPORT", "IMAGES/*.gif"], "no match for"),
        (["nowhere", "IMAGES"], "does not exist"),
        (["EXPORT", "IMAGES", "--output", "x.txt"], "ends in .csv, .jsonl, .html"),
        (["EXPORT", "IMAGES", "--output", f"{__file__}/x.csv"], "is not writable"),
        (["EXPORT", "IMAGES", "--output", "FOLDER"], "which is a folder"),
    ],
)
def test_a_mistake_is_one_sentence_and_status_2(export, images, tmp_path, capsys, arguments, words):
    (tmp_path / "empty").mkdir()
    (tmp_path / "folder.csv").mkdir()
    names = {"EXPORT": export, "EMPTY": tmp_path / "empty", "IMAGES": images, "FOLDER": tmp_path / "folder.csv"}
    for name, path in names.items():
        arguments = [word.replace(name, str(path)) for word in arguments]
    assert main(["predict", *arguments]) == 2
    errors = capsys.readouterr().err
    assert words in errors and errors.startswith("topgraft: ")
    assert len(errors.splitlines()) == 1


def test_a_folder_without_the_right_to_write_is_refused_before_anything_is_computed(tmp_path, monkeypatch):
    monkeypatch.setattr(prediction_files.os, "access", lambda path, mode: False)
    assert "is not writable" in refusal(check_output, tmp_path / "new" / "out.csv")
    assert not (tmp_path / "new").exists()


def test_a_disk_that_fails_is_one_sentence(always_first, tmp_path):
    (tmp_path / "x.png").write_bytes(encode_noise(1)[0])
    output = tmp_path / f"{'n' * 250}.csv"  # too long with the suffix of its temporary name
    assert "File name too long" in refusal(write_predictions, always_first, [str(tmp_path / "x.png")], output, 1)
