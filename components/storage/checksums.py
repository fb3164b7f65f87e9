"""CRC-32C checksums of the files of a folder; TFRecord files need none, as they have one per record."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import google_crc32c

from components.errors import DamagedFile
from components.storage.files import read_json, write_text

CHECKSUMS_FILE = "checksums.json"
READ_BYTES = 2**20


def compute_checksum(path: Path) -> int:
    """Return the CRC-32C of a file's content."""
    value = 0
    with path.open("rb") as file:
        while block := file.read(READ_BYTES):
            value = google_crc32c.extend(value, block)
    return value


def write_checksums(folder: Path, files: Iterable[Path]) -> None:
    """Write the checksums of files below a folder to its checksums.json."""
    checksums = {file.relative_to(folder).as_posix(): compute_checksum(file) for file in sorted(files)}
    write_text(folder / CHECKSUMS_FILE, json.dumps(checksums))  # no newline: without the last brace it is not JSON


def find_mismatch(folder: Path) -> str | None:
    """Return the first file that is missing or differs from checksums.json; None if all match or it does not exist."""
    try:
        checksums = read_json(folder / CHECKSUMS_FILE)
    except FileNotFoundError:
        return None
    except DamagedFile:
        return CHECKSUMS_FILE
    checksums.pop("crc32c", None)  # earlier versions wrote the checksum of the file itself
    for name, value in checksums.items():
        if not (folder / name).is_file() or compute_checksum(folder / name) != value:
            return name
    return None
