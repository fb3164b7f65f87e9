"""The names of the classes: how they may be spelt, how they are ordered, and the user's own list of them."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

from components.errors import UserError
from components.storage.places import as_path, describe_error, storage_errors

# Kinds of compatibility characters (Unicode's UAX #44, 5.7.3) that look like what they stand for, as ² and ① do not.
ALIKE = ("<compat>", "<wide>", "<narrow>", "<noBreak>", "<font>", "<initial>", "<medial>", "<final>", "<isolated>")
# What is invisible beside the format characters: variation selectors, joiners and fillers.
INVISIBLE = frozenset(map(chr, [*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0), 0x034F, 0x115F, 0x1160, 0x3164]))
# What pandas.read_csv takes for no value, of words, in lower case.
MISSING = frozenset({"#n/a", "#na", "n/a", "na", "nan", "-nan", "<na>", "none", "null"})


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
    """Raise UserError where two classes, given with the key of an image each, differ in nothing that a reader sees.

    That is in case, blanks, invisible characters, or the form in which Unicode writes the same letters.
    """
    seen: dict[str, str] = {}
    for text in sorted(examples):
        # Names that another file system or a later copy of the data would make one and the same, or a person takes so.
        first = seen.setdefault(_fold(text), text)
        if first != text:
            # repr shows blanks and invisible characters; letters that look alike differ in ASCII alone.
            one, other = _drop_invisible(first), _drop_invisible(text)
            show = repr if one.lower() == other.lower() and one.upper() == other.upper() else ascii
            raise UserError(
                f"The classes {show(first)} (of {examples[first]!r}) and {show(text)} (of {examples[text]!r}) differ "
                f"only in case, blanks, invisible characters or Unicode form: give both one name, or two that can be "
                f"told apart."
            )


def _fold(name: str) -> str:
    """Return a name without all that nobody sees in it."""
    alike = "".join(map(_spell_alike, unicodedata.normalize("NFC", name)))
    return unicodedata.normalize("NFC", _drop_invisible(unicodedata.normalize("NFC", alike)).lower())


def _spell_alike(character: str) -> str:
    """Return the usual spelling of a compatibility character that looks like it, such as a full-width letter."""
    kind = unicodedata.decomposition(character).partition(" ")[0]
    return unicodedata.normalize("NFKC", character) if kind in ALIKE else character


def _drop_invisible(name: str) -> str:
    """Return a name without format characters and variation selectors, each run of blanks as one, none at its ends."""
    visible = [letter for letter in name if unicodedata.category(letter) != "Cf" and letter not in INVISIBLE]
    return " ".join("".join(visible).split())


def describe_doubtful(labels: Sequence[str]) -> list[str]:
    """Return a sentence on a class that is named as a missing value is, and one on two that are the same number."""
    sentences = [
        f"The class {text!r} is named as a missing value is: if its images have no label, leave them out."
        for text in labels
        if text.lower() in MISSING
    ][:1]
    numbers: dict[float, str] = {}
    for text in labels:
        # So many digits are exact in a float.
        if re.fullmatch(r"[-+]?[0-9]{1,12}(\.[0-9]{0,3})?", text):
            first = numbers.setdefault(float(text), text)
            if first != text:
                return [*sentences, f"The classes {first!r} and {text!r} are the same number: are they meant as two?"]
    return sentences


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
