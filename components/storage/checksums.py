"""CRC-32C sums, by which a file tells that it is no longer as it was written: of files, and of json that holds its own.

TFRecord files hold a sum for each record already, which their readers compare.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import google_crc32c

from components.errors import DamagedFile
from components.storage.files import write_text

# A file of a folder, which holds the sums of others there.
SUMS_FILE = "checksums.json"
# The first member of a json file that holds the sum of the text behind it.
OWN_SUM = "crc32c"
READ_BYTES = 2**20


def sum_bytes(content: bytes) -> int:
    """Return the CRC-32C of bytes."""
    value: int = google_crc32c.value(content)
    return value


def sum_file(path: Path) -> int:
    """Return the CRC-32C of a file's content."""
    value = 0
    with path.open("rb") as file:
        while block := file.read(READ_BYTES):
            value = google_crc32c.extend(value, block)
    return value


def write_summed_json(path: Path, value: dict[str, Any]) -> None:
    """Write a json object in one step, its first member the sum of the text behind it."""
    text = json.dumps(value)[1:]
    write_text(path, f'{{"{OWN_SUM}": {sum_bytes(text.encode())}, {text}')


def read_summed_json(path: Path) -> dict[str, Any]:
    """Return what write_summed_json wrote; raises DamagedFile for anything else, OSError for what cannot be read."""
    head, _, text = path.read_bytes().partition(b", ")
    if head != f'{{"{OWN_SUM}": {sum_bytes(text)}'.encode():
        raise DamagedFile(str(path))
    value: dict[str, Any] = json.loads(b"{" + text)
    return value


def write_sums(folder: Path, files: Iterable[Path]) -> None:
    """Write the sums of files below a folder to its checksums.json."""
    write_summed_json(
        folder / SUMS_FILE, {file.relative_to(folder).as_posix(): sum_file(file) for file in sorted(files)}
    )


def find_unlike(folder: Path) -> str | None:
    """Return the first file that is missing or not as write_sums found it, None where all are or no sums were kept."""
    try:
        sums = read_summed_json(folder / SUMS_FILE)
    except FileNotFoundError:
        return None
    except DamagedFile:
        return SUMS_FILE
    for name, value in sums.items():
        if not (folder / name).is_file() or sum_file(folder / name) != value:
            return name
    return None
