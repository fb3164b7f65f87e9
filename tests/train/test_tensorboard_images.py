import io
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageDraw, ImageFont
from sklearn.metrics import confusion_matrix

from components.features import INDEX, PROBABILITIES
from components.outcomes import Bottlenecks, Examples, Head, Work
from components.run_dir import RunDir
from components.shards.bottlenecks import read_bottlenecks
from components.train.inputs import evaluate_from_memory, evaluate_from_shards
from components.train.settings import Architecture, Recipe
from components.train.tensorboard_images import (
    COUNTED_CELL,
    MARGIN,
    MOST_CLASSES,
    NAMES,
    RIGHT,
    SMALL_CELL,
    TEXT,
    WRONG,
    Prediction,
    choose_cell,
    count_confusion,
    draw_confusion,
    draw_predictions,
    encode_picture,
    write_pictures,
)
from components.train.train import load_classifier, read_source, train_head

BLUE = np.array([8, 48, 107])
CLASSES = ["cyan", "magenta", "yellow"]


def read_pictures(run):
    """Return {tag: (step, pixels)} of the pictures in a run's events."""
    pictures = {}
    for file in (run.model / "eval").glob("events*"):
        for event in tf.compat.v1.train.summary_iterator(str(file)):
            for value in event.summary.value:
                if value.HasField("image"):
                    assert value.tag not in pictures
                    image = Image.open(io.BytesIO(value.image.encoded_image_string))
                    assert image.size == (value.image.width, value.image.height) and image.mode == "RGB"
                    pictures[value.tag] = event.step, np.asarray(image)
    return pictures


def read_cells(pixels, classes):
    """Return the colour of each cell, uint8[C, C, 3], taken beside what may be written in its middle."""
    cell = choose_cell(classes)
    grid = pixels[-cell * classes :, -cell * classes :]
    return grid[2::cell, 2::cell]


def shade(confusion):
    """Return what colours cells should have."""
    shares = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    return 255 - np.sqrt(shares)[..., None] * (255 - BLUE)


def shows(pixels, text, place=(MARGIN, MARGIN), colour=(0, 0, 0)):
    """Tell whether a picture has a text and nothing more at a place."""
    font = ImageFont.load_default(TEXT)
    width = int(font.getlength(text)) + 20
    expected = Image.new("RGB", (width, TEXT + MARGIN // 2), (255, 255, 255))
    ImageDraw.Draw(expected).text((0, 0), text, colour, font)
    found = pixels[place[1] : place[1] + expected.height, place[0] : place[0] + width]
    return np.array_equal(found, np.asarray(expected)[:, : found.shape[1]])


def read_outcome(run, stage, kind):
    values = json.loads((run.stages / f"{stage}.json").read_text())["outcome"]
    return kind(**{**values, "work": Work(**values["work"])})


def predict_val(run, examples, bottlenecks, head, architecture=Architecture()):  # noqa: B008
    """Return keys, actual and predicted classes and probabilities of the validation split."""
    table = read_bottlenecks(read_source(examples, bottlenecks, run, "val").files, bottlenecks.dim)
    classifier = load_classifier(examples, head, run, architecture)
    answers = list(classifier.predict(evaluate_from_memory(table.vectors, table.labels).input_fn))
    return (
        table.keys,
        table.labels,
        np.array([answer[INDEX] for answer in answers]),
        np.array([answer[PROBABILITIES].max() for answer in answers]),
    )


@pytest.fixture
def toy(toy_run, tmp_path):
    """A copy of the toy run, and what its stages returned."""
    shutil.copytree(toy_run.root, tmp_path / "run")
    run = RunDir(tmp_path / "run")
    return run, read_outcome(run, "ingest", Examples), read_outcome(run, "extract", Bottlenecks)


def test_a_run_leaves_the_confusion_of_the_validation_split_as_scikit_learn_counts_it(toy):
    run, examples, bottlenecks = toy
    head = read_outcome(run, "train", Head)
    _, actual, predicted, _ = predict_val(run, examples, bottlenecks, head)
    expected = confusion_matrix(actual, predicted, labels=range(3))
    assert np.trace(expected) < expected.sum()  # some mistakes, else the picture would show little
    step, pixels = read_pictures(run)["evaluation/confusion_matrix"]
    steps = -(-examples.splits["train"] // 16)
    assert step == head.best_epoch * steps
    np.testing.assert_allclose(read_cells(pixels, 3), shade(expected), atol=0.51)
    assert shows(pixels, f"validation, epoch {head.best_epoch}: {np.trace(expected)} of {expected.sum()} right")


def test_a_run_leaves_nine_predictions_with_their_images_and_classes(toy, toy_config):
    from pathlib import Path

    run, examples, bottlenecks = toy
    keys, actual, predicted, probabilities = predict_val(run, examples, bottlenecks, read_outcome(run, "train", Head))
    step, pixels = read_pictures(run)["evaluation/predictions"]
    assert step == read_pictures(run)["evaluation/confusion_matrix"][0]
    picked = np.random.default_rng(0).permutation(len(keys))[:9]
    for number, row in enumerate(picked):
        left, upper = MARGIN + number % 3 * 176, 28 + number // 3 * 216
        tile = pixels[upper : upper + 160, left : left + 160]
        with Image.open(Path(toy_config["data"]["path"]) / keys[row]) as image:
            expected = np.asarray(image.convert("RGB")).mean((0, 1))
        shown = tile[(tile != 255).any(-1)]
        np.testing.assert_allclose(shown.mean(0), expected, atol=4)
        assert shows(pixels, f"is {CLASSES[actual[row]]}", (left, upper + 164))
        answer = f"{CLASSES[predicted[row]]} {100 * probabilities[row]:.1f} %"
        colour = RIGHT if predicted[row] == actual[row] else WRONG
        assert shows(pixels, answer, (left, upper + 180), colour)


@pytest.mark.parametrize("max_memory", [None, 1], ids=["memory", "shards"])
def test_the_seed_picks_other_images_and_streaming_shows_the_same(toy, progress, max_memory):
    run, examples, bottlenecks = toy
    former = read_pictures(run)
    recipe = Recipe(epochs=8, batch_size=16, learning_rate=0.05, max_memory=max_memory, seed=1)
    head = train_head(examples, bottlenecks, run, Architecture(), recipe, progress)
    pictures = read_pictures(run)
    assert not np.array_equal(pictures["evaluation/predictions"][1], former["evaluation/predictions"][1])
    source = read_source(examples, bottlenecks, run, "val")
    classifier = load_classifier(examples, head, run, Architecture())
    hits = round(classifier.evaluate(evaluate_from_shards(source).input_fn)["accuracy"] * source.count)
    title = f"validation, epoch {head.best_epoch}: {hits} of {source.count} right"
    assert all(shows(pixels, title) for _, pixels in pictures.values())


def test_pictures_of_a_head_that_was_trained_before_are_the_same(toy):
    run, examples, bottlenecks = toy
    head, former = read_outcome(run, "train", Head), read_pictures(run)
    shutil.rmtree(run.model / "eval")
    source = read_source(examples, bottlenecks, run, "val")
    classifier = load_classifier(examples, head, run, Architecture())
    write_pictures(classifier, evaluate_from_shards(source), source.files, examples, run, head.best_epoch, 7, 0)
    tf.compat.v1.summary.FileWriterCache.clear()
    for tag, (step, pixels) in read_pictures(run).items():
        assert step == 7
        np.testing.assert_array_equal(pixels, former[tag][1])


@pytest.mark.parametrize("harm", ["damaged", "absent"])
def test_images_that_cannot_be_read_are_left_blank_and_training_goes_on(toy, progress, harm):
    run, examples, bottlenecks = toy
    for file in run.examples.glob("val-*"):
        content = file.read_bytes()
        file.unlink()
        if harm == "damaged":
            file.write_bytes(content[:100] + b"?" + content[101:])
    train_head(examples, bottlenecks, run, Architecture(), Recipe(epochs=1), progress)
    _, pixels = read_pictures(run)["evaluation/predictions"]
    assert (pixels[28:188, MARGIN : MARGIN + 160] == 225).all()


def test_a_run_without_validation_images_draws_nothing(toy, progress):
    run, examples, bottlenecks = toy
    for file in [*run.examples.glob("val-*"), *bottlenecks.folder(run).glob("val-*")]:
        file.write_bytes(b"")
    examples = replace(examples, splits={**examples.splits, "val": 0})
    train_head(examples, bottlenecks, run, Architecture(), Recipe(epochs=1), progress)
    assert not read_pictures(run)


def draw_counts(classes, images=500, seed=0):
    random = np.random.default_rng(seed)
    actual = random.integers(0, classes, images)
    return actual, np.where(random.random(images) < 0.7, actual, random.integers(0, classes, images))


@pytest.mark.parametrize("classes", [2, 10, 33, 102, 257, MOST_CLASSES])
def test_every_cell_is_as_blue_as_its_share_of_the_row_for_any_number_of_classes(classes):
    actual, predicted = draw_counts(classes)
    confusion = count_confusion(actual, predicted, classes)
    expected = confusion_matrix(actual, predicted, labels=range(classes))
    np.testing.assert_array_equal(confusion, expected)
    picture = draw_confusion(confusion, [f"class {number}" for number in range(classes)], "title")
    np.testing.assert_allclose(read_cells(np.asarray(picture), classes), shade(expected), atol=0.51)
    assert max(picture.size) < 5000


def test_names_stand_beside_their_rows_and_columns_even_for_257_classes():
    assert choose_cell(257) == SMALL_CELL >= TEXT
    names = ["" if number != 100 else "a name" for number in range(257)]
    pixels = np.asarray(draw_confusion(np.eye(257, dtype=int), names, "title"))
    top, left = (length - 257 * SMALL_CELL for length in pixels.shape[:2])
    rows, columns = np.nonzero((pixels[top:, :left] < 128).all(-1))
    assert rows.min() >= 100 * SMALL_CELL and rows.max() < 101 * SMALL_CELL + 2
    assert columns.max() > left - 2 * MARGIN
    rows, columns = np.nonzero((pixels[top - NAMES : top, left:] < 128).all(-1))
    assert columns.min() >= 100 * SMALL_CELL and columns.max() < 101 * SMALL_CELL + 2
    assert rows.max() > NAMES - 2 * MARGIN


def test_counts_are_written_where_there_is_room():
    few, many = choose_cell(33), choose_cell(34)
    assert few >= COUNTED_CELL > many

    def middle_is_plain(classes, count):
        pixels = np.asarray(draw_confusion(count * np.eye(classes, dtype=int), ["x"] * classes, "title"))
        cell = choose_cell(classes)
        inside = pixels[-cell + 1 :, -cell + 1 :].reshape(-1, 3)
        return len(np.unique(inside, axis=0)) == 1

    assert not middle_is_plain(33, 7) and not middle_is_plain(33, 1234567)
    assert middle_is_plain(34, 7)


def test_a_class_without_images_is_a_white_row():
    pixels = np.asarray(draw_confusion(np.array([[0, 0], [1, 3]]), ["a", "b"], "title"))
    assert (read_cells(pixels, 2)[0] == 255).all()


def test_long_names_are_cut_to_their_room():
    short, long = (
        np.asarray(draw_predictions([Prediction(name, name, 0.5, None)], "title")) for name in ("name", "name" * 50)
    )
    assert short.shape == long.shape
    assert (long[:, MARGIN + 160 + MARGIN // 2 :] == 255).all()
    assert not np.array_equal(short, long)


def test_a_picture_is_encoded_without_loss():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8))
    encoded = encode_picture(image)
    assert (encoded.width, encoded.height, encoded.colorspace) == (40, 30, 3)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(encoded.encoded_image_string))), np.asarray(image))
