"""CSV tables that are safe in a spreadsheet: it does not read names of files or classes as formulas."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from components.storage.files import replacing_file

# The start of a formula: https://owasp.org/www-community/attacks/CSV_Injection. It includes leading apostrophes, so
# that restore_cell removes exactly the one that guard_cell added.
FORMULA = re.compile(r"'*[=+\-@\t\r\n]")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a CSV table atomically; read_csv returns the same text."""
    with (
        replacing_file(path) as partial,
        open(partial, "w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        table = csv.writer(file)
        table.writerow(map(guard_cell, columns))
        table.writerows(map(guard_cell, row) for row in rows)


def scan_csv(path: Path) -> Iterator[dict[str, str]]:
    """Yield the rows of a file of write_csv by column."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = ([restore_cell(cell) for cell in row] for row in csv.reader(file))
        header = next(rows, [])
        yield from (dict(zip(header, row, strict=True)) for row in rows if row)


def read_csv(path: Path) -> list[dict[str, str]]:
    """Return the rows of a file of write_csv by column."""
    return [*scan_csv(path)]


def escape_name(name: str) -> str:
    """Return a path or name as in tables: with backslash escapes for bytes that are not Unicode."""
    return name.encode("utf-8", "backslashreplace").decode()


def decode_name(encoded: bytes) -> str:
    """Return the path or name in the bytes of a record, as escape_name writes it."""
    return escape_name(encoded.decode("utf-8", "surrogateescape"))


def guard_cell(value: Any) -> Any:
    """Return a value with an apostrophe before the start of a formula; numbers stay as they are."""
    if isinstance(value, str) and FORMULA.match(value) and not NUMBER.fullmatch(value):
        return f"'{value}"
    return value


def restore_cell(text: str) -> str:
    """Return the text that guard_cell was given."""
    return text[1:] if text.startswith("'") and FORMULA.match(text) else text
