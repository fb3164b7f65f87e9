"""List the images of a manifest: a .csv, .tsv or .jsonl file with one row per image."""

from __future__ import annotations

import csv
import errno
import json
import os
import re
import sys
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple, TextIO

import numpy as np
import pyarrow.compute as pc

from components.data.class_names import is_one_line, natural_key, order_classes
from components.data.image_file import Excluded, ImageFile
from components.data.image_list import ImageList, Listing
from components.data.split_words import SPLIT_WORDS, check_evaluation
from components.errors import UserError
from components.storage.places import REMOTE, Status, as_path, describe_error, is_remote, storage_errors, walk_objects

COLUMN_NAMES = ("path", "label", "split", "source", "group")


class ManifestRow(NamedTuple):
    """A row of a manifest; label is '' for an image of the test split without a label."""

    line: int
    path: str
    label: str
    split: str
    source: str
    group: str


def list_manifest(manifest: str, excluded: Excluded) -> Listing:
    """List the images of a manifest, with files that do not exist; raises UserError for a manifest that is not valid.

    If no file has a path as written, blanks around it are ignored, and then a backslash is a slash.
    """
    folder = os.path.dirname(manifest)
    base = folder if is_remote(folder) else os.path.abspath(folder)
    lines = array("q")

    def read() -> Iterator[ImageFile]:
        for line, written, label, split, source, group in read_rows(manifest):
            path = _find_spelling(written, folder)
            key = find_key(path, base)
            if not excluded(key):
                lines.append(line)
                yield ImageFile(key, _locate(path, folder), label, source, group, split, 0, 0)

    files = ImageList.collect(read())
    order = pc.array_sort_indices(files.keys).to_numpy()
    files, numbers = _drop_repeated(files.take(order), np.asarray(lines)[order], manifest)
    listed = _list_remote(files)
    measured = [array("q"), array("q")]
    missing = 0
    for file in files:
        status = _measure(file.path, listed)
        missing += status is None
        for column, value in zip(measured, status or (0, 0), strict=True):
            column.append(value)
    if len(files) and missing == len(files):  # then the paths are wrong, not the files
        line, path = int(numbers.min()), files[int(np.argmin(numbers))].path
        written = next(row.path for row in read_rows(manifest) if row.line == line)
        place = path if is_url(path) else os.path.abspath(path)
        raise UserError(
            f"None of the {len(files)} files in {manifest!r} exists, the first {written!r} of line {line} would be "
            f"{place!r}: expected paths relative to the folder of the manifest, absolute ones or gs:// addresses, "
            f"correct them there."
        )
    files = replace(files, sizes=np.asarray(measured[0]), modified_ns=np.asarray(measured[1]))
    labelled = files.texts.codes != files.texts.find("")
    unlabelled = sorted(files.read(np.flatnonzero(~labelled)), key=lambda file: natural_key(file.key))
    files = files.select(labelled)
    return Listing(files, order_classes(files.texts.count()), [], [file.path for file in unlabelled])


def _drop_repeated(files: ImageList, lines: np.ndarray, manifest: str) -> tuple[ImageList, np.ndarray]:
    """Return files, sorted by key and line, and their lines, each key once; raises UserError for rows that differ."""
    same = pc.equal(files.keys[1:], files.keys[:-1]).to_numpy(zero_copy_only=False)
    is_first = np.append(True, ~same)[: len(files)]
    rows = np.flatnonzero(~is_first)
    firsts = np.flatnonzero(is_first)[np.cumsum(is_first)[rows] - 1]
    for place in np.argsort(lines[rows], kind="stable"):
        first, now = files[int(firsts[place])], files[int(rows[place])]
        for column in COLUMN_NAMES[1:]:
            field = "text" if column == "label" else column
            if getattr(first, field) != getattr(now, field):
                raise UserError(
                    f"Line {lines[rows[place]]} of {manifest!r} gives {now.key!r} the {column} "
                    f"{getattr(now, field)!r}, line {lines[firsts[place]]} gave it {getattr(first, field)!r}: expected "
                    f"one row for each image, remove the wrong one."
                )
    return files.select(is_first), lines[is_first]


def _find_spelling(path: str, folder: str) -> str:
    bare = path.strip()
    spellings = [path, bare, bare.replace("\\", "/")]
    if spellings[0] == spellings[-1] or is_url(bare):
        return bare
    exists = os.path.exists if not is_remote(folder) else lambda place: as_path(place).exists()
    return next((spelling for spelling in spellings if exists(_locate(spelling, folder))), bare)


def find_key(path: str, base: str) -> str:
    """Return the key of a manifest's path: relative to its absolute folder base, absolute outside it, or a URL."""
    if is_url(path):
        return path
    absolute = _locate(path, base) if is_remote(base) else os.path.normpath(os.path.join(base, path))
    return absolute.removeprefix(os.path.join(base, ""))


def is_url(path: str) -> bool:
    """Return whether a path is a URL such as gs://bucket/image.jpg."""
    return bool(re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", path))


def _locate(path: str, folder: str) -> str:
    """Return the path or URL of an image, given the folder of its manifest."""
    if is_url(path):
        return path
    if is_remote(folder) and not path.startswith("/"):  # object stores resolve no '..'
        return REMOTE + os.path.normpath(f"{folder[len(REMOTE) :]}/{path}")
    return os.path.join(folder, path)


def _list_remote(files: ImageList) -> dict[str, Status]:
    """Return the objects in the remote folders of files; one listing covers a thousand files, one request one file."""
    listed = {}
    for folder in {file.path.rpartition("/")[0] for file in files if is_remote(file.path)}:
        try:
            for name, status in walk_objects(as_path(folder), nested=False):
                listed[f"{folder}/{name}"] = status
        except FileNotFoundError:  # ingest rejects its files
            continue
        except storage_errors() as error:
            raise UserError(f"Cannot list {folder!r} ({describe_error(error)}): check its permissions.") from error
    return listed


def _measure(path: str, listed: Mapping[str, Status]) -> tuple[int, int] | None:
    """Return bytes and time of change of a file: None if it is missing, zeros if they are unknown."""
    if is_url(path):
        return listed.get(path) if is_remote(path) else (0, 0)
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.ELOOP, errno.ENAMETOOLONG):
            raise UserError(f"Cannot read {path!r} ({error.strerror}): correct that and run again.") from error
        return 0, 0  # ingest rejects it with the reason
    return status.st_size, status.st_mtime_ns


def read_rows(manifest: str) -> Iterator[ManifestRow]:
    """Yield the rows of a manifest; raises UserError for a row that is not valid and for an unreadable file."""
    objects = manifest.lower().endswith(".jsonl")
    read = _read_objects if objects else _read_table
    try:
        # The csv module needs unchanged line breaks. Names that are not UTF-8 are kept as the file system keeps them.
        with as_path(manifest).open(
            encoding="utf-8-sig", errors="surrogateescape", newline=None if objects else ""
        ) as file:
            words = set()
            for line, values in read(file, manifest):
                yield _check_row(manifest, line, values)
                words.add(values.get("split", "").strip().lower())
            check_evaluation(words, manifest)
    except storage_errors() as error:
        raise UserError(
            f"Cannot read the manifest {manifest!r} ({describe_error(error)}): set data.path to a .csv, .tsv or "
            f".jsonl file with columns 'path' and 'label'."
        ) from error


def _read_table(file: TextIO, manifest: str) -> Iterator[tuple[int, Mapping[str, str]]]:
    """Yield the first line number of each row and its values by column."""
    # Strict, because otherwise a value with an open quote would contain the rest of the file.
    table = csv.reader(file, "excel-tab" if manifest.lower().endswith(".tsv") else "excel", strict=True)
    line = 1
    try:
        header = [name.strip().lower() for name in next(table, [])]
        for column in COLUMN_NAMES:
            if header.count(column) != (column in {*COLUMN_NAMES[:2], *header}):
                found = f"has the column {column!r} {header.count(column)} times"
                raise _refusal(manifest, line, found, "a header with 'path' and 'label' once each")
        line = table.line_num + 1
        for row in table:
            if row and len(row) != len(header):
                raise _refusal(manifest, line, f"has {len(row)} value(s)", f"{len(header)}, as in the header")
            if row:
                yield line, dict(zip(header, row, strict=True))
            line = table.line_num + 1
    except csv.Error as error:
        raise _refusal(manifest, line, f"cannot be parsed ({error})", "quotes that are closed") from error


def _read_objects(file: TextIO, manifest: str) -> Iterator[tuple[int, Mapping[str, str]]]:
    """Yield each line number and its values by column; numbers become strings, as written."""
    for line, text in enumerate(file, 1):
        if not text.strip():
            continue
        try:
            values = json.loads(text, parse_int=str, parse_float=str)
        except (ValueError, RecursionError) as error:
            raise _refusal(manifest, line, "is not valid JSON", 'an object with "path" and "label"') from error
        if not isinstance(values, dict):
            raise _refusal(manifest, line, "is not a JSON object", 'an object with "path" and "label"')
        values = {column: "" if values.get(column) is None else values[column] for column in COLUMN_NAMES}
        for column, value in values.items():
            if not isinstance(value, str):
                raise _refusal(manifest, line, f"has the {column} {json.dumps(value)}", "a string or a number")
        yield line, values


def _check_row(manifest: str, line: int, values: Mapping[str, str]) -> ManifestRow:
    path = values["path"]
    label, split, source, group = (values.get(column, "").strip() for column in COLUMN_NAMES[1:])
    if not path.strip():
        raise _refusal(manifest, line, "has no path", "the path of an image")
    # No file name has NUL, or surrogates other than those for invalid UTF-8.
    if re.search("[\0\ud800-\udc7f\udd00-\udfff]", path):
        raise _refusal(manifest, line, f"has the path {path!r}", "one without null characters and lone surrogates")
    if split.lower() not in ("", *SPLIT_WORDS):
        raise _refusal(manifest, line, f"has the split {split!r}", "train, val or test, or nothing")
    split = SPLIT_WORDS.get(split.lower(), "")
    if not label and split != "test":
        raise _refusal(manifest, line, "has no label", "a class, as only images of the test split may have none")
    if not is_one_line(label):
        raise _refusal(manifest, line, f"has the label {label!r}", "UTF-8 on one line")
    return ManifestRow(line, path, *(sys.intern(value) for value in (label, split, source, group)))


def _refusal(manifest: str, line: int, found: str, expected: str) -> UserError:
    return UserError(f"Line {line} of {manifest!r} {found}: expected {expected}, correct it there.")
