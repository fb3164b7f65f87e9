"""Csv tables that a spreadsheet may open: no name of a file or a class is taken for a formula, and none is changed."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from components.storage.files import replacing_file

# What makes a spreadsheet take a cell for a formula: https://owasp.org/www-community/attacks/CSV_Injection. Apostrophes
# before it are counted with it, so that the one that is put before them can be taken away again.
FORMULA = re.compile(r"'*[=+\-@\t\r\n]")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a csv table in one step; read_csv gives back the same text."""
    with (
        replacing_file(path) as partial,
        open(partial, "w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        table = csv.writer(file)
        table.writerow(map(guard_cell, columns))
        table.writerows(map(guard_cell, row) for row in rows)


def scan_csv(path: Path) -> Iterator[dict[str, str]]:
    """Yield the rows of a csv file with a header that write_csv wrote, one by one."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = ([restore_cell(cell) for cell in row] for row in csv.reader(file))
        header = next(rows, [])
        yield from (dict(zip(header, row, strict=True)) for row in rows if row)


def read_csv(path: Path) -> list[dict[str, str]]:
    """Read a csv file with a header that write_csv wrote."""
    return [*scan_csv(path)]


def escape_name(name: str) -> str:
    """Return a path or name as it stands in a table: what is not Unicode in it as backslash escapes."""
    return name.encode("utf-8", "backslashreplace").decode()


def decode_name(encoded: bytes) -> str:
    """Return a path or name of a record as escape_name has it."""
    return escape_name(encoded.decode("utf-8", "surrogateescape"))


def guard_cell(value: Any) -> Any:
    """Return a value with an apostrophe before what a spreadsheet would take for a formula; numbers are none."""
    if isinstance(value, str) and FORMULA.match(value) and not NUMBER.fullmatch(value):
        return f"'{value}"
    return value


def restore_cell(text: str) -> str:
    """Return the text that guard_cell was given."""
    return text[1:] if text.startswith("'") and FORMULA.match(text) else text
