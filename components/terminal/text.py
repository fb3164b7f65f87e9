"""Escape control and bidirectional characters before text reaches a terminal, join names, and write sizes as text."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from unicodedata import category

# Unicode categories: control, format (bidirectional overrides among them), surrogates (from names that are not UTF-8),
# and separators of lines and paragraphs.
UNSAFE = {"Cc", "Cf", "Cs", "Zl", "Zp"}
NAMES_SHOWN = 10


def printable(text: str) -> str:
    """Return the text on one line, each unsafe character escaped, such as \\x1b or \\n."""
    if text.isprintable():
        return text
    return "".join(
        character.encode("unicode_escape").decode("ascii") if category(character) in UNSAFE else character
        for character in text
    )


def print_line(text: str) -> None:
    """Print text on one line of stdout, escaping the characters that are unsafe or not in its encoding."""
    encoding = sys.stdout.encoding or "utf-8"
    print(printable(text).encode(encoding, "backslashreplace").decode(encoding))


def join_names(names: Sequence[str]) -> str:
    """Return the first NAMES_SHOWN names joined by commas, and the number of further names."""
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more


def format_bytes(size: float) -> str:
    """Return bytes as text in B, KiB, MiB, GiB or TiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:,.1f} TiB"
