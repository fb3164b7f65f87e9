"""Pictures of a trained head for TensorBoard: the confusion matrix of the validation split, and a few predictions."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from PIL import Image, ImageDraw, ImageFont

from components import features
from components.errors import DamagedShard
from components.features import INDEX, PROBABILITIES
from components.images.thumbnail import THUMBNAIL
from components.outcomes import Examples
from components.run_dir import RunDir
from components.shards.pictures import read_thumbnails
from components.shards.records import META_SPEC, read_batches
from components.storage.tables import decode_name
from components.train.estimator import HeadClassifier
from components.train.inputs import Batches
from components.train.model import EVALUATION_SCOPE

v1 = tf.compat.v1

SHEET_SIDE = 3  # predictions in a row, and rows

# Pixels. Names need cells of 12; a cell that holds its count is larger.
TEXT, NAMES, MARGIN = 12, 160, 8
SMALL_CELL, COUNTED_CELL, LARGE_CELL = 12, 30, 40
# With more classes, cells would be smaller than 4 pixels.
MOST_CLASSES = 1000

BLACK, WHITE, GREY, BLUE = (0, 0, 0), (255, 255, 255), (225, 225, 225), (8, 48, 107)
RIGHT, WRONG = (0, 110, 40), (180, 20, 20)


class Prediction(NamedTuple):
    """What the head says of one image: its class, the predicted one and that one's probability; image if it is read."""

    actual: str
    predicted: str
    probability: float
    image: Image.Image | None


def write_pictures(
    classifier: HeadClassifier,
    val: Batches,
    files: Sequence[str],
    examples: Examples,
    run: RunDir,
    epoch: int,
    step: int,
    seed: int,
) -> None:
    """Write both pictures of the head as it is kept to the evaluation's events; files are those that val reads.

    The seed picks the images. One that cannot be read is left blank.
    """
    # Two numbers of each are kept, not the probabilities of all classes.
    answers = [
        (int(answer[INDEX]), float(answer[PROBABILITIES][answer[INDEX]]))
        for answer in classifier.predict(val.input_fn, [INDEX, PROBABILITIES])
    ]
    if not answers:
        return
    records = list(read_batches(files, {name: META_SPEC[name] for name in (features.KEY, features.LABEL)}, 1024))
    keys, actual = (np.concatenate([batch[name] for batch in records]) for name in (features.KEY, features.LABEL))
    predicted = np.array([index for index, _ in answers])
    title = f"validation, epoch {epoch}: {(actual == predicted).sum():,} of {len(answers):,} right"
    picked = np.random.default_rng(seed).permutation(len(answers))[: SHEET_SIDE**2].tolist()
    names = [decode_name(keys[row]) for row in picked]
    thumbnails: dict[str, Image.Image] = {}
    with suppress(DamagedShard):  # training does not need it; whatever does has it computed again
        thumbnails.update(read_thumbnails(set(names), ["val"], run.examples, examples.shards))
    labels = examples.labels
    predictions = [
        Prediction(
            labels[actual[row]],
            labels[predicted[row]],
            answers[row][1],
            thumbnails.get(name),
        )
        for row, name in zip(picked, names, strict=True)
    ]
    pictures = {"predictions": draw_predictions(predictions, title)}
    if len(labels) <= MOST_CLASSES:
        pictures["confusion_matrix"] = draw_confusion(count_confusion(actual, predicted, len(labels)), labels, title)
    values = [
        v1.Summary.Value(tag=f"{EVALUATION_SCOPE}/{name}", image=encode_picture(picture))
        for name, picture in pictures.items()
    ]
    with tf.Graph().as_default():  # a writer is not made outside one
        events = v1.summary.FileWriterCache.get(classifier.eval_dir())
    events.add_summary(v1.Summary(value=values), step)
    events.flush()


def count_confusion(actual: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Return the confusion matrix int64[C, C] of classes int64[N], row actual, column predicted."""
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (actual, predicted), 1)
    return counts


def encode_picture(picture: Image.Image) -> tf.compat.v1.Summary.Image:
    """Return a picture as TensorBoard takes it."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=3)
    return v1.Summary.Image(
        height=picture.height, width=picture.width, colorspace=3, encoded_image_string=buffer.getvalue()
    )


def choose_cell(classes: int) -> int:
    """Return the side of a confusion matrix's cells in pixels: 40 for few classes, from 83 to 400 classes 12."""
    return min(max(1000 // classes, min(SMALL_CELL, 4800 // classes)), LARGE_CELL)


def draw_confusion(confusion: np.ndarray, labels: Sequence[str], title: str) -> Image.Image:
    """Draw int[C, C], row actual, column predicted, as cells at the lower right, with names where there is room.

    A cell is the bluer the larger its share of its row; by the square root, else single mistakes were not seen.
    """
    cell = choose_cell(len(labels))
    shares = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    colours = np.array(WHITE) + np.sqrt(shares)[..., None] * (np.array(BLUE) - np.array(WHITE))
    pixels = np.round(colours).astype(np.uint8).repeat(cell, 0).repeat(cell, 1)
    if cell >= SMALL_CELL:
        pixels[::cell] = pixels[:, ::cell] = GREY
    grid, font = Image.fromarray(pixels), ImageFont.load_default(TEXT)
    if cell >= COUNTED_CELL:
        _write_counts(ImageDraw.Draw(grid), confusion, shares, cell)
    room = NAMES if cell >= SMALL_CELL else 0
    top = 2 * (TEXT + MARGIN) + MARGIN
    width = max(room + grid.width, _measure(title, font) + MARGIN)
    picture = Image.new("RGB", (width, top + room + grid.height), WHITE)
    draw = ImageDraw.Draw(picture)
    draw.text((MARGIN, MARGIN), title, BLACK, font)
    draw.text((MARGIN, 2 * MARGIN + TEXT), "row: true class, column: predicted", BLACK, font)
    left, upper = picture.width - grid.width, picture.height - grid.height
    picture.paste(grid, (left, upper))
    if room:
        picture.paste(_write_names(labels, cell, "r"), (left - room, upper))
        picture.paste(_write_names(labels, cell, "l").transpose(Image.Transpose.ROTATE_90), (left, upper - room))
    return picture


def _write_names(labels: Sequence[str], cell: int, side: str) -> Image.Image:
    """Write names below each other, aligned to the left or right side."""
    names, font = Image.new("RGB", (NAMES, cell * len(labels)), WHITE), ImageFont.load_default(TEXT)
    draw = ImageDraw.Draw(names)
    edge = MARGIN // 2 if side == "l" else NAMES - MARGIN // 2
    for number, label in enumerate(labels):
        draw.text((edge, (number + 0.5) * cell), _shorten(label, NAMES - MARGIN, font), BLACK, font, f"{side}m")
    return names


def _write_counts(draw: ImageDraw.ImageDraw, confusion: np.ndarray, shares: np.ndarray, cell: int) -> None:
    for row, column in zip(*np.nonzero(confusion), strict=True):
        text = str(confusion[row, column])
        font = ImageFont.load_default(min(TEXT, 1.5 * cell / len(text)))
        colour = WHITE if shares[row, column] > 0.25 else BLACK
        draw.text(((column + 0.5) * cell, (row + 0.5) * cell), text, colour, font, "mm")


def draw_predictions(predictions: Sequence[Prediction], title: str) -> Image.Image:
    """Draw a sheet of images, each over its class and what is predicted, green where that is right, else red."""
    font, width, height = ImageFont.load_default(TEXT), THUMBNAIL + 2 * MARGIN, THUMBNAIL + 2 * TEXT + 4 * MARGIN
    top = TEXT + 2 * MARGIN
    rows = -(-len(predictions) // SHEET_SIDE)
    sheet = Image.new("RGB", (max(SHEET_SIDE * width, _measure(title, font) + MARGIN), top + rows * height), WHITE)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN), title, BLACK, font)
    for number, (actual, predicted, probability, image) in enumerate(predictions):
        left, upper = number % SHEET_SIDE * width + MARGIN, top + number // SHEET_SIDE * height
        if image:
            sheet.paste(image, (left + (THUMBNAIL - image.width) // 2, upper + (THUMBNAIL - image.height) // 2))
        else:
            draw.rectangle((left, upper, left + THUMBNAIL - 1, upper + THUMBNAIL - 1), GREY)
        share = f" {100 * probability:.1f} %"
        answer = _shorten(predicted, THUMBNAIL - _measure(share, font), font) + share
        draw.text((left, upper + THUMBNAIL + MARGIN // 2), _shorten(f"is {actual}", THUMBNAIL, font), BLACK, font)
        colour = RIGHT if predicted == actual else WRONG
        draw.text((left, upper + THUMBNAIL + MARGIN + TEXT), answer, colour, font)
    return sheet


def _measure(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> int:
    return int(font.getlength(text)) + 1


def _shorten(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """Cut a text so that it is no wider than so many pixels."""
    if _measure(text, font) <= width:
        return text
    while text and _measure(f"{text}…", font) > width:
        text = text[:-1]
    return f"{text}…"
