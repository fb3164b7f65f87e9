import csv
import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from conftest import paint_images
from PIL import Image

from components.errors import UserError
from components.export import list_versions
from components.predict import find_files, load_export, predict_files, prediction_columns, prediction_row
from pipeline.cli import main


@pytest.fixture(scope="module")
def export(toy_run):
    return str(list_versions(toy_run.exports)[-1])


@pytest.fixture
def images(tmp_path):
    return paint_images(tmp_path / "new", per_class=15, seed=9)


def test_csv_and_jsonl_hold_a_row_for_every_image_in_input_order(export, images, tmp_path, capsys):
    for suffix in ("csv", "jsonl"):
        assert main(["predict", export, str(images), "--output", str(tmp_path / f"out.{suffix}")]) == 0
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == sorted(str(file) for file in images.rglob("*.*"))
    right = [Path(row["path"]).relative_to(images).parts[0] == row["label"] for row in rows]
    assert np.mean(right) > 0.7
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [{key: str(value) for key, value in line.items()} for line in lines] == rows
    assert "45 predicted, 0 unreadable" in capsys.readouterr().err


def test_an_unreadable_file_is_listed_and_the_rest_is_predicted(export, images, tmp_path, capsys):
    (images / "cyan" / "bad.jpg").write_bytes(b"\xff\xd8\xff no")
    assert main(["predict", export, str(images), "--output", str(tmp_path / "out.csv")]) == 0
    errors = capsys.readouterr().err
    assert "bad.jpg: not an image" in errors
    assert "45 predicted, 1 unreadable" in errors
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 46


def test_what_training_takes_is_predicted_by_its_upright_pixels(export, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (3, 4, 3)).astype(np.uint8)
    image = Image.fromarray(pixels).resize((50, 30))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    upright = Image.fromarray(tf.io.decode_image((tmp_path / "turned.jpg").read_bytes()).numpy())
    upright = upright.transpose(Image.Transpose.ROTATE_270)
    upright.save(tmp_path / "upright.png")
    upright.save(tmp_path / "upright.webp", lossless=True)
    upright.save(tmp_path / "upright.tiff")
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.tiff", exif=exif)
    (tmp_path / "damaged.webp").write_bytes((tmp_path / "upright.webp").read_bytes()[:100])
    outcomes = dict(predict_files(load_export(Path(export)).compute, map(str, sorted(tmp_path.iterdir()))))
    damaged = outcomes.pop(str(tmp_path / "damaged.webp"))
    assert damaged == (str(tmp_path / "damaged.webp"), "damaged, Pillow says: could not create decoder object")
    assert len(outcomes) == 5
    for probabilities in outcomes.values():
        np.testing.assert_allclose(probabilities, outcomes[str(tmp_path / "upright.png")], atol=1e-6)


def test_the_terminal_gets_the_path_and_a_line_a_class(export, images, capsys):
    (image,) = images.glob("cyan/camera/000.*")
    assert main(["predict", export, str(image), "--top-k", "2"]) == 0
    path, *lines = capsys.readouterr().out.splitlines()
    assert path == str(image)
    probabilities, labels = zip(*(line.split() for line in lines))
    assert len(labels) == 2 and set(labels) < {"cyan", "magenta", "yellow"}
    assert float(probabilities[0]) >= float(probabilities[1])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["EXPORT", "nowhere.jpg"], "no file or folder 'nowhere.jpg'"),
        (["nowhere", "IMAGES"], "holds no SavedModel"),
        (["EXPORT", "IMAGES", "--output", "x.txt"], "ends in .csv or .jsonl"),
    ],
)
def test_a_mistake_is_one_sentence_and_status_2(export, images, capsys, arguments, words):
    names = {"EXPORT": export, "IMAGES": str(images)}
    assert main(["predict", *(names.get(word, word) for word in arguments)]) == 2
    errors = capsys.readouterr().err
    assert words in errors
    assert len(errors.splitlines()) == 1


def test_ties_go_to_the_lower_index_as_in_argmax():
    probabilities = np.array([0.2, 0.4, 0.4], np.float32)
    assert prediction_row("p", probabilities, ["a", "b", "c"])[1:] == [
        "b",
        "0.400000",
        1,
        "c",
        "0.400000",
        "a",
        "0.200000",
    ]
    assert len(prediction_columns(3)) == len(prediction_row("p", probabilities, ["a", "b", "c"]))


def test_files_and_folders_are_found_in_order(tmp_path):
    for name in ("b/2.jpg", "b/1.jpg", "a.jpg", "b/.hidden", "b/Thumbs.db"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = list(find_files([tmp_path / "b", tmp_path / "a.jpg"]))
    assert [Path(path).name for path in found] == ["1.jpg", "2.jpg", "a.jpg"]
    with pytest.raises(UserError):
        list(find_files([tmp_path / "c"]))
