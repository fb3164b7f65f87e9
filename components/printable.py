"""Text for a terminal: what a path or a class is named must not move its cursor, colour it or turn its line round."""

from __future__ import annotations

from unicodedata import category

# Control characters, invisible format characters (those that turn the direction of text among them), halves of
# surrogate pairs (bytes of a name that is not UTF-8), and separators of lines and paragraphs.
UNSAFE = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def printable(text: str) -> str:
    """Return one line of text in which each unsafe character stands as its escape, such as \\x1b or \\n."""
    if text.isprintable():
        return text
    return "".join(_escape(character) if category(character) in UNSAFE else character for character in text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
