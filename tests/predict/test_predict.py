from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from toys import encode_noise, refusal

from components.export.export import list_versions
from components.predict.predict import (
    BATCH_SIZE,
    Answer,
    load_export,
    predict_files,
    prediction_columns,
    prediction_row,
)


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
    assert damaged == (str(tmp_path / "damaged.webp"), "corrupt: damaged, Pillow says: could not create decoder object")
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
    files = iter([str(path)] * (3 * BATCH_SIZE))
    predictions = predict_files(lambda encoded: [Answer(np.ones(2, np.float32))] * len(encoded), files)
    next(predictions)
    assert len(list(files)) == 2 * BATCH_SIZE


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
    for (path, outcome), start in zip(outcomes, [*starts, ""], strict=True):
        if start:
            assert outcome.path == path and outcome.reason.startswith(start)
        else:
            np.testing.assert_allclose(outcome.probabilities, outcomes[0][1].probabilities, atol=1e-6)
            assert outcome.abstained is None


def test_a_damaged_export_is_refused(tmp_path):
    (tmp_path / "saved_model.pb").write_bytes(b"no model")
    assert "cannot be loaded" in refusal(load_export, tmp_path)
