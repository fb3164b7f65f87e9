"""The names of the classes: how they may be spelt, how they are ordered, and the user's own list of them."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

from components.errors import UserError
from components.places import as_path, describe_error, storage_errors


def natural_key(name: str) -> list[tuple[int, int, str, str]]:
    """Sort key under which '2' stands before '10'."""
    parts = re.split(r"([0-9]+)", name)
    # Digits are compared by length, then by value, as strings: int() refuses very long ones.
    return [
        (0, len(part.lstrip("0")), part.lstrip("0"), part) if part.isdecimal() else (1, 0, part, "")
        for part in parts
        if part
    ]


def order_classes(texts: Iterable[str]) -> list[str]:
    """Return the different ones of the classes of images, in natural order."""
    return sorted(set(texts), key=natural_key)


def append_classes(labels: Sequence[str], known: Sequence[str]) -> list[str]:
    """Return labels in another order: the known ones in theirs, then the others."""
    return [*(text for text in known if text in {*labels}), *(text for text in labels if text not in {*known})]


def is_one_line(name: str) -> bool:
    """Tell whether a name can be a line of labels.txt: valid UTF-8 without a line break."""
    return not re.search("[\n\r\ud800-\udfff]", name)


def check_spelling(examples: Mapping[str, str]) -> None:
    """Raise UserError where two classes, given with the key of an image each, differ in case or Unicode form only."""
    seen: dict[str, str] = {}
    for text in sorted(examples):
        # Names that another file system or a later copy of the data would make one and the same.
        first = seen.setdefault(unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).lower()), text)
        if first != text:
            show = ascii if unicodedata.normalize("NFC", first) == unicodedata.normalize("NFC", text) else repr
            raise UserError(
                f"The classes {show(first)} (of {examples[first]!r}) and {show(text)} (of {examples[text]!r}) differ "
                f"only in case or Unicode form: give both one name, or two that can be told apart."
            )


def read_labels(path: str) -> list[str]:
    """Read the names of a labels.txt; raises UserError where it cannot be read or is wrong."""
    try:
        content = as_path(path).read_bytes()
    except storage_errors() as error:
        raise UserError(
            f"Cannot read the labels {path!r} ({describe_error(error)}): expected a text file with one class a line."
        ) from error
    return parse_labels(content, path)


def parse_labels(content: bytes, path: str) -> list[str]:
    """Return the names in the bytes of a labels.txt, one a line; raises UserError for blank or repeated lines."""
    try:
        lines = re.split("\r\n|[\r\n]", content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UserError(f"The labels {path!r} are not UTF-8: expected a text file with one class a line.") from error
    if not lines[-1]:  # what the last line break ends in
        lines.pop()
    if not lines:
        raise UserError(f"The labels {path!r} are empty: expected one class a line.")
    numbers: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            raise UserError(f"Line {number} of the labels {path!r} is blank: expected one class a line, remove it.")
        if numbers.setdefault(line, number) != number:
            raise UserError(
                f"Line {number} of the labels {path!r} repeats {line!r} of line {numbers[line]}: remove one of them."
            )
    return lines


def match_labels(labels: Sequence[str], counts: Mapping[str, int], path: str) -> None:
    """Raise UserError for a class that is not among the labels of a file, or a label of which there is no image."""
    strangers = sorted(set(counts) - set(labels), key=natural_key)
    if strangers:
        (nearest,) = difflib.get_close_matches(strangers[0], labels, 1, 0)
        raise UserError(
            f"Class {strangers[0]!r} with {counts[strangers[0]]} image(s) is not in the labels {path!r}: add it there, "
            f"or rename it; the nearest there is {nearest!r}."
        )
    for number, label in enumerate(labels, 1):
        if not counts.get(label):
            raise UserError(
                f"Label {label!r}, line {number} of the labels {path!r}, has no image: add images to that class, or "
                f"remove the line."
            )
