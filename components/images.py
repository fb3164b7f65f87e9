"""Find the images of a class-named folder tree and check one file's bytes."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from components.errors import UserError

# Left out without a word: what operating systems put beside images.
SKIPPED_NAMES = frozenset({"Thumbs.db", "desktop.ini"})

# Why a file did not become a record: the fixed list of reasons in rejects.jsonl.
NO_CLASS, UNREADABLE, EMPTY, NOT_AN_IMAGE, CORRUPT = "no_class", "unreadable", "empty", "not_an_image", "corrupt"

# First bytes of the formats that tf.io.decode_image reads.
SIGNATURES = (
    (b"\xff\xd8\xff", "jpeg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
    (b"BM", "bmp"),
)


class ImageFile(NamedTuple):
    """A file: key is its path below the data root, '/' separated; text its class; source the folders between."""

    key: str
    text: str
    source: str
    size: int
    modified_ns: int


class Listing(NamedTuple):
    """What stands below one data root: the files of all classes, and the class names in natural order."""

    root: str
    files: list[ImageFile]
    labels: list[str]
    strays: list[str]

    def fingerprint(self) -> str:
        """Hash of every file's key, size and time of change."""
        digest = hashlib.sha256(self.root.encode("utf-8", "surrogateescape"))
        for file in sorted(self.files):
            digest.update(f"{file.key}\0{file.size}\0{file.modified_ns}\n".encode("utf-8", "surrogateescape"))
        for key in sorted(self.strays):
            digest.update(f"{key}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sort key under which '2' stands before '10'."""
    parts = re.split(r"([0-9]+)", name)
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts if part]


def list_images(root: Path) -> Listing:
    """List <root>/<class>/.../<file>, strays beside the class folders; raises UserError for an unusable root."""
    if not root.exists():
        raise UserError(
            f"There is no folder '{root}': set data.path to a folder with one sub-folder of images per class."
        )
    if not root.is_dir():
        raise UserError(
            f"'{root}' is a file, not a folder: set data.path to a folder with one sub-folder of images per class."
        )
    try:
        files = list(_walk(root))
    except OSError as error:
        raise UserError(f"Cannot read '{error.filename}' ({error.strerror}): check its permissions.") from error
    strays = [key for key, _ in files if "/" not in key]
    images = [_image_file(key, entry) for key, entry in files if "/" in key]
    labels = sorted({image.text for image in images}, key=natural_key)
    if not images:
        raise UserError(f"'{root}' has no image in any sub-folder: expected one sub-folder of images per class.")
    if len(labels) == 1:
        raise UserError(f"'{root}' has the single class '{labels[0]}': a classifier needs two or more class folders.")
    return Listing(str(root), images, labels, strays)


def _walk(folder: Path, prefix: str = "") -> Iterator[tuple[str, os.DirEntry[str]]]:
    with os.scandir(folder) as entries:
        ordered = sorted(entries, key=lambda entry: entry.name)
    for entry in ordered:
        if entry.name.startswith(".") or entry.name in SKIPPED_NAMES:
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path), f"{prefix}{entry.name}/")
        else:
            yield f"{prefix}{entry.name}", entry


def _image_file(key: str, entry: os.DirEntry[str]) -> ImageFile:
    text, *between, _ = key.split("/")
    try:
        status = entry.stat()
    except OSError:  # a broken link: ingest meets it again and gives it its reject row
        return ImageFile(key, text, "/".join(between), 0, 0)
    return ImageFile(key, text, "/".join(between), status.st_size, status.st_mtime_ns)


def recognise_format(encoded: bytes) -> str | None:
    """Return jpeg, png, gif or bmp by the first bytes, or None."""
    return next((name for signature, name in SIGNATURES if encoded.startswith(signature)), None)
