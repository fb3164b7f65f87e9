import csv
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from toys import encode_noise, paint_images, refusal, shared_data

from components.backbones import spec
from components.backbones.network import imagenet_class_names
from components.export.versions import list_versions
from components.predict.predict import (
    PREDICTION_BATCH,
    Answer,
    load_export,
    predict_files,
    prediction_columns,
    prediction_row,
)
from pipeline.cli import main


@pytest.fixture(scope="module")
def export(toy_run):
    return str(list_versions(toy_run.exports)[-1])


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
    assert damaged == "corrupt: damaged, Pillow says: could not create decoder object"
    assert len(outcomes) == 5
    upright = outcomes[str(tmp_path / "upright.png")]
    for outcome in outcomes.values():
        np.testing.assert_allclose(outcome.probabilities, upright.probabilities, atol=1e-6)


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


def test_a_batch_is_read_at_a_time(tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(encode_noise(1)[0])
    files = iter([str(path)] * (3 * PREDICTION_BATCH))
    predictions = predict_files(lambda encoded: [Answer(np.ones(2, np.float32))] * len(encoded), files)
    next(predictions)
    assert len(list(files)) == 2 * PREDICTION_BATCH


def test_each_file_that_cannot_be_predicted_says_why_in_its_place(export, tmp_path):
    contents = {"1.png": encode_noise(1)[0], "2.jpg": b"\xff\xd8\xff no", "3.txt": b"a text", "4.png": b""}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "5.png").symlink_to("gone.png")
    (tmp_path / "6").mkdir()
    (tmp_path / "7.png").write_bytes(contents["1.png"])
    names = sorted(path.name for path in tmp_path.iterdir())
    outcomes = list(predict_files(load_export(Path(export)).compute, [str(tmp_path / name) for name in names]))
    assert [Path(path).name for path, _ in outcomes] == names
    starts = [
        "",
        "corrupt: damaged JPEG",
        "not an image: starts with",
        "empty: ",
        "unreadable: No such file",
        "a folder",
    ]
    for (_, outcome), start in zip(outcomes, [*starts, ""], strict=True):
        if start:
            assert outcome.startswith(start)
        else:
            np.testing.assert_allclose(outcome.probabilities, outcomes[0][1].probabilities, atol=1e-6)
            assert outcome.abstained is None


def test_a_damaged_export_is_refused(tmp_path):
    (tmp_path / "saved_model.pb").write_bytes(b"no model")
    assert "cannot be loaded" in refusal(load_export, tmp_path)


@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"])
def test_the_embedded_backbones_know_imagenet(name, tmp_path):
    folder = shared_data("imagenet_val_sample")
    with (folder / "labels.csv").open(newline="") as file:
        truth = {row["file"]: int(row["index"]) for row in csv.DictReader(file)}
    output = tmp_path / "out.csv"
    images = next(path for path in folder.rglob("*.JPEG")).parent
    assert main(["classify", str(images), "--backbone", name, "--output", str(output)]) == 0
    names = [label.split(",")[0] for label in imagenet_class_names(1000)]
    with output.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["path"].endswith(".JPEG")]
    assert len(rows) == len(truth) == 300
    wanted = [names[truth[row["path"].rsplit("/", 1)[1]]] for row in rows]
    first = np.mean([truth[row["path"].rsplit("/", 1)[1]] == int(row["index"]) for row in rows])
    ranks = ["label", "label_2", "label_3", "label_4", "label_5"]
    among = np.mean([name in [row[rank] for rank in ranks] for row, name in zip(rows, wanted, strict=True)])
    print(f"{name}: top-1 {first:.4f}, top-5 {among:.4f}")
    assert first >= 0.66
    assert among >= 0.87


def test_names_are_the_tutorials_ones():
    names = imagenet_class_names(1000)
    assert names[388].startswith("giant panda")
    assert names[51] == "triceratops"
    assert imagenet_class_names(1001)[0] == "background" and imagenet_class_names(1001)[389] == names[388]
    assert imagenet_class_names(7) == ()


def test_a_backbone_without_classes_is_refused(tmp_path, capsys, toy_backbone, monkeypatch):
    paint_images(tmp_path, 1)
    monkeypatch.setattr(
        "components.backbones.spec._parse_name",
        lambda text: spec._parse_mapping(toy_backbone),
    )
    assert main(["classify", str(tmp_path), "--backbone", "toy"]) == 2
    assert "has no classes of its own" in capsys.readouterr().err
