"""Text for a person: names in a sentence, and in a terminal, where none must move the cursor, colour or turn a line."""

from __future__ import annotations

from collections.abc import Sequence
from unicodedata import category

# Control characters, invisible format characters (those that turn the direction of text among them), halves of
# surrogate pairs (bytes of a name that is not UTF-8), and separators of lines and paragraphs.
UNSAFE = {"Cc", "Cf", "Cs", "Zl", "Zp"}
NAMES_SHOWN = 10


def printable(text: str) -> str:
    """Return one line of text in which each unsafe character stands as its escape, such as \\x1b or \\n."""
    if text.isprintable():
        return text
    return "".join(_escape(character) if category(character) in UNSAFE else character for character in text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def join_names(names: Sequence[str]) -> str:
    """Return the first NAMES_SHOWN of some names in a line, and how many more there are."""
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more
