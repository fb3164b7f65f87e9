"""List and read the images of TFRecord files that follow TF-Slim or TensorFlow Datasets."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import BinaryIO, NamedTuple

import tensorflow as tf

from components.data.class_names import order_classes, parse_labels
from components.data.image_file import TFRECORD, Excluded, ImageFile
from components.data.image_list import ImageList, Listing, open_train
from components.data.keys import is_system_file
from components.data.split_words import SPLIT_WORDS, check_evaluation, last_split_word
from components.data.tf_examples import FRAME_BYTES, find_class, find_image, parse_features, read_content
from components.errors import UserError
from components.rejects import Reject, RejectedImage
from components.storage.places import (
    as_path,
    describe_error,
    find_matches,
    is_remote,
    read_status,
    storage_errors,
    walk_objects,
)
from components.storage.reading import try_reading

# Files with class names beside the records: that of TF-Slim, then those of TensorFlow Datasets.
LABEL_FILES = ("labels.txt", "label.labels.txt", "*.labels.txt")

# The first bytes of gzip and zlib.
COMPRESSION_MARKS = (b"\x1f\x8b", b"\x78")
REST_IS_LOST = ", and the rest of the file cannot be read"


class Record(NamedTuple):
    """The image of one record, and the number and name of its class, None or '' if absent."""

    file: ImageFile
    number: int | None
    text: str


def list_tfrecords(place: str, excluded: Excluded) -> Listing:
    """List the records of the TFRecord files in a folder, or of those that a pattern matches; reads all records.

    Raises UserError for compressed files, and for class numbers and names that contradict each other.
    """
    paths = find_tfrecords(place)
    shared = len(os.path.commonprefix([path.split("/")[:-1] for path in paths]))
    records: list[Record] = []
    rejects: list[Reject] = []
    names = ["/".join(path.split("/")[shared:]) for path in paths]
    words = [last_split_word(name) for name in names]
    check_evaluation(words, place)
    for path, name, word in zip(paths, names, words, strict=True):
        for found in () if excluded(name) else _scan_file(path, name, SPLIT_WORDS.get(word, "")):
            if isinstance(found, Reject):
                rejects.append(found)
            elif not excluded(found.file.key):
                records.append(found)
    classes = _name_classes(records, "/".join(paths[0].split("/")[:shared]))
    # A record has a number, a name or both.
    texts = [record.text if record.number is None else classes[record.number] for record in records]
    named = (record.file._replace(text=text) for record, text in zip(records, texts, strict=True))
    labels = [classes[number] for number in sorted(classes)]
    labels += order_classes(set(texts) - set(labels))
    files, open_splits = open_train(ImageList.collect(named).sort())
    cut = [reject.key.rpartition("#") for reject in rejects if reject.detail.endswith(REST_IS_LOST)]
    notes = [
        f"The file {name!r} is damaged, and its records from number {number} on were not read (see rejects.jsonl)."
        for name, _, number in cut
    ]
    return Listing(files, labels, sorted(rejects), [], open_splits, ordered=True, notes=tuple(notes))


def find_tfrecords(place: str) -> list[str]:
    """Return the TFRecord files in a folder, or those that a pattern matches; raises UserError for none."""
    if is_remote(place) and as_path(place).is_dir():
        names = [name for name, _ in walk_objects(as_path(place), nested=False) if TFRECORD in name]
        paths = [f"{place.rstrip('/')}/{name}" for name in names]
    elif os.path.isdir(place):
        with os.scandir(place) as entries:
            paths = [entry.path for entry in entries if entry.is_file() and TFRECORD in entry.name]
    elif as_path(place).exists():
        paths = [place]
    else:
        try:
            paths = tf.io.gfile.glob(place) if "://" in place else [str(path) for path in find_matches(place)]
        except tf.errors.OpError as error:
            raise UserError(f"Cannot list {place!r} ({describe_error(error)}): check the address.") from error
    paths = [path for path in paths if not is_system_file(path.rpartition("/")[2])]
    if not paths:
        raise UserError(
            f"There is no TFRecord file {place!r}: expected a folder of them, or a pattern that finds them."
        )
    return sorted(paths)


def read_record(path: str, offset: int) -> bytes:
    """Return the image bytes of the record at an offset of a TFRecord file; raises as try_reading does."""

    def read() -> bytes:
        size, _ = _measure(path)
        with _open(path) as file:
            file.seek(min(offset, size))
            return find_image(parse_features(read_content(file, size - offset)))

    return try_reading(read, path)


def _scan_file(path: str, name: str, split: str) -> Iterator[Record | Reject]:
    """Yield each record of a file, or its reject, up to the first damaged one; the text of each file is ''.

    Raises UserError for a file that cannot be read.
    """
    number = offset = 0
    try:
        size, modified_ns = _measure(path)
        with _open(path) as file:
            while offset < size:
                key = f"{name}#{number}"
                try:
                    content = read_content(file, size - offset)
                except RejectedImage as rejected:
                    if not offset:
                        _check_uncompressed(path, file)
                    reason, detail = rejected.args
                    yield Reject(key, reason, f"{detail}{REST_IS_LOST}")
                    return
                try:
                    features = parse_features(content)
                    image = find_image(features)
                    listed = ImageFile(key, path, "", "", "", split, len(image), modified_ns, offset)
                    yield Record(listed, *find_class(features))
                except RejectedImage as rejected:
                    yield Reject(key, *rejected.args)
                number, offset = number + 1, offset + FRAME_BYTES + len(content)
    except (tf.errors.OpError, *storage_errors()) as error:  # not damage: its images would be missing without a word
        raise UserError(
            f"Cannot read {path!r} ({describe_error(error)}): correct that, or name {name!r} in data.exclude."
        ) from error


def _open(path: str) -> BinaryIO:
    if "://" in path:
        remote: BinaryIO = tf.io.gfile.GFile(path, "rb")
        return remote
    return open(path, "rb")


def _measure(path: str) -> tuple[int, int]:
    """Return bytes and time of change (ns) of a file."""
    if "://" in path and not is_remote(path):
        other = tf.io.gfile.stat(path)
        return other.length, other.mtime_nsec
    return read_status(as_path(path))  # TensorFlow would round the time to seconds


def _check_uncompressed(path: str, file: BinaryIO) -> None:
    file.seek(0)
    if file.read(2).startswith(COMPRESSION_MARKS):
        raise UserError(f"{path!r} is a compressed TFRecord file: decompress it (gzip -d) and run again.")


def _name_classes(records: Sequence[Record], folder: str) -> dict[int, str]:
    """Return class names by number: from the records, else from the labels file, else the number itself."""
    names: dict[int, str] = {}
    for file, number, text in records:
        if number is not None and text and names.setdefault(number, text) != text:
            raise UserError(
                f"Class {number} is named {names[number]!r}, but {text!r} in the record {file.key!r}: expected one "
                f"name for each number, write the records again."
            )
    unnamed = {number: file.key for file, number, _ in records if number is not None and number not in names}
    place, listed = _read_label_file(folder) if unnamed else ("", {})
    for number, key in unnamed.items():
        if place and number not in listed:
            raise UserError(f"Class {number} of the record {key!r} is not in the labels {place!r}: add its name there.")
        names[number] = listed.get(number, str(number))
    numbers: dict[str, int] = {}
    for number in sorted(names):
        if numbers.setdefault(names[number], number) != number:
            raise UserError(
                f"Classes {numbers[names[number]]} and {number} of the records in {folder or '.'!r} are both named "
                f"{names[number]!r}: expected a different name for each number, write the records again."
            )
    return names


def _read_label_file(folder: str) -> tuple[str, dict[int, str]]:
    """Return the path of the labels file, '' for none, and the class names by number."""
    try:
        present = sorted(tf.io.gfile.listdir(folder) if "://" in folder else os.listdir(folder or "."))
        found = [name for pattern in LABEL_FILES for name in present if fnmatchcase(name, pattern)]
        if not found:
            return "", {}
        path = os.path.join(folder, found[0])
        with _open(path) as file:
            lines = parse_labels(file.read(), path)
    except (OSError, tf.errors.OpError) as error:
        raise UserError(
            f"Cannot read the labels of the records in {folder or '.'!r} ({describe_error(error)}): check permissions."
        ) from error
    pairs = [re.fullmatch("([0-9]+):(.*)", line) for line in lines]
    if all(pairs):
        return path, {int(pair[1]): pair[2] for pair in pairs if pair}
    return path, dict(enumerate(lines))
