"""Class names: their spelling, their order, and the user's labels.txt."""

from __future__ import annotations

import codecs
import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from unicodedata import category, decomposition, normalize

from components.errors import UserError
from components.storage.places import as_path, describe_error, storage_errors

# Kinds of compatibility characters (Unicode's UAX #44, 5.7.3) that look like their usual spelling; ² and ① do not.
ALIKE = ("<compat>", "<wide>", "<narrow>", "<noBreak>", "<font>", "<initial>", "<medial>", "<final>", "<isolated>")
# Characters that are invisible, beside the format characters: variation selectors, joiners and fillers.
INVISIBLE = frozenset(map(chr, [*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0), 0x034F, 0x115F, 0x1160, 0x3164]))
# Words that pandas.read_csv reads as a missing value, in lower case.
MISSING = frozenset({"#n/a", "#na", "n/a", "na", "nan", "-nan", "<na>", "none", "null"})
EXPECTED_LABELS = "expected a text file with one class per line"


def natural_key(name: str) -> list[tuple[int, int, str, str]]:
    """Return a sort key that orders the digits in names by value: '2' before '10'."""
    # Digits are compared by length, then as strings, because int() refuses very long ones.
    return [
        (0, len(part.lstrip("0")), part.lstrip("0"), part) if part.isdecimal() else (1, 0, part, "")
        for part in re.findall("[0-9]+|[^0-9]+", name)
    ]


def order_classes(texts: Iterable[str]) -> list[str]:
    """Return the distinct classes of images in natural order."""
    return sorted(set(texts), key=natural_key)


def append_classes(labels: Sequence[str], known: Sequence[str]) -> list[str]:
    """Return labels in another order: first the known ones in their order, then the others."""
    return [*(text for text in known if text in {*labels}), *(text for text in labels if text not in {*known})]


def is_one_line(name: str) -> bool:
    """Return whether a name can be a line of labels.txt: valid UTF-8 without a line break."""
    return not re.search("[\n\r\ud800-\udfff]", name)


def check_spelling(examples: Mapping[str, str]) -> None:
    """Raise UserError for two classes that look the same; examples maps each class to the key of one of its images.

    Such classes differ only in case, blanks, invisible characters, or the Unicode form of the same letters. Another
    file system or a copy of the data may merge them.
    """
    seen: dict[str, str] = {}
    for text in sorted(examples):
        first = seen.setdefault(_fold(text), text)
        if first != text:
            # repr shows blanks and invisible characters; only ASCII shows the difference of letters that look alike.
            one, other = _drop_invisible(first), _drop_invisible(text)
            show = repr if one.lower() == other.lower() and one.upper() == other.upper() else ascii
            raise UserError(
                f"The classes {show(first)} (of {examples[first]!r}) and {show(text)} (of {examples[text]!r}) differ "
                f"only in case, blanks, invisible characters or Unicode form: give both one name, or two names that "
                f"look different."
            )


def _fold(name: str) -> str:
    """Return a form of a name that is equal for names that look the same."""
    alike = (
        normalize("NFKC", character) if decomposition(character).partition(" ")[0] in ALIKE else character
        for character in normalize("NFC", name)
    )
    return normalize("NFC", _drop_invisible(normalize("NFC", "".join(alike))).lower())


def _drop_invisible(name: str) -> str:
    """Return a name without invisible characters; each run of blanks becomes one, and those at the ends are removed."""
    visible = [letter for letter in name if category(letter) != "Cf" and letter not in INVISIBLE]
    return " ".join("".join(visible).split())


def describe_doubtful(labels: Sequence[str]) -> list[str]:
    """Return at most two sentences: on a class named as a missing value, and on two classes with the same number."""
    sentences = [
        f"The class {text!r} has the name of a missing value: if its images have no label, leave them out."
        for text in labels
        if text.lower() in MISSING
    ][:1]
    numbers: dict[float, str] = {}
    for text in labels:
        if re.fullmatch(r"[-+]?[0-9]{1,12}(\.[0-9]{0,3})?", text):  # so many digits are exact in a float
            first = numbers.setdefault(float(text), text)
            if first != text:
                return [
                    *sentences,
                    f"The classes {first!r} and {text!r} are the same number: check that both are meant.",
                ]
    return sentences


def read_labels_file(path: str) -> list[str]:
    """Return the class names in a labels.txt; raises UserError for a file that cannot be read or is not valid."""
    try:
        content = as_path(path).read_bytes()
    except storage_errors() as error:
        raise UserError(f"Cannot read the labels {path!r} ({describe_error(error)}): {EXPECTED_LABELS}.") from error
    return parse_labels(content, path)


def parse_labels(content: bytes, path: str) -> list[str]:
    """Return the class names in the bytes of a labels.txt, one per line; raises UserError for content not valid."""
    try:
        lines = [line.decode() for line in content.removeprefix(codecs.BOM_UTF8).splitlines()]
    except UnicodeDecodeError as error:
        raise UserError(f"The labels {path!r} are not UTF-8: {EXPECTED_LABELS}.") from error
    if not lines:
        raise UserError(f"The labels {path!r} are empty: {EXPECTED_LABELS}.")
    numbers: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            raise UserError(f"Line {number} of the labels {path!r} is blank: expected one class per line, remove it.")
        if numbers.setdefault(line, number) != number:
            raise UserError(
                f"Line {number} of the labels {path!r} repeats {line!r} of line {numbers[line]}: remove one of them."
            )
    return lines


def match_labels(labels: Sequence[str], counts: Mapping[str, int], path: str) -> None:
    """Raise UserError for a class that is not in the labels of a file, and for a label without images.

    counts maps each class to its number of images.
    """
    unknown = order_classes(set(counts) - set(labels))
    if unknown:
        (nearest,) = difflib.get_close_matches(unknown[0], labels, 1, 0)
        raise UserError(
            f"Class {unknown[0]!r} with {counts[unknown[0]]} image(s) is not in the labels {path!r}: add it there, "
            f"or rename it; the nearest there is {nearest!r}."
        )
    for number, label in enumerate(labels, 1):
        if not counts.get(label):
            raise UserError(
                f"Label {label!r}, line {number} of the labels {path!r}, has no image: add images to that class, or "
                f"remove the line."
            )
