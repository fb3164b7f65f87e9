"""CRC-32C checksums by which a folder tells that its files are as they were written.

TFRecord files hold a checksum for each record already, which their readers compare.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import google_crc32c

from components.errors import DamagedFile
from components.storage.files import read_json, write_text

# A file of a folder, which holds the checksums of others there.
SUMS_FILE = "checksums.json"
READ_BYTES = 2**20


def sum_file(path: Path) -> int:
    """Return the CRC-32C of a file's content."""
    value = 0
    with path.open("rb") as file:
        while block := file.read(READ_BYTES):
            value = google_crc32c.extend(value, block)
    return value


def write_sums(folder: Path, files: Iterable[Path]) -> None:
    """Write the checksums of files below a folder to its checksums.json."""
    sums = {file.relative_to(folder).as_posix(): sum_file(file) for file in sorted(files)}
    write_text(folder / SUMS_FILE, json.dumps(sums))  # ends with its brace, so that no cut goes unnoticed


def find_unlike(folder: Path) -> str | None:
    """Return the first file that is missing or not as write_sums found it, None where all are or no sums were kept."""
    try:
        sums = read_json(folder / SUMS_FILE)
    except FileNotFoundError:
        return None
    except DamagedFile:
        return SUMS_FILE
    sums.pop("crc32c", None)  # earlier versions wrote the checksum of the file itself
    for name, value in sums.items():
        if not (folder / name).is_file() or sum_file(folder / name) != value:
            return name
    return None
