"""List the images that a manifest names: a .csv, .tsv or .jsonl file with a row for each."""

from __future__ import annotations

import csv
import errno
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple, TextIO

from components.data.class_names import is_one_line, natural_key, order_classes
from components.data.image_file import Excluded, ImageFile, Listing
from components.data.split_words import SPLIT_WORDS, check_evaluation
from components.errors import UserError
from components.storage.places import REMOTE, Status, as_path, describe_error, is_remote, storage_errors, walk_objects

COLUMNS = ("path", "label", "split", "source", "group")


class Row(NamedTuple):
    """What a manifest says of one image; label is '' for an image of the test split that has none."""

    line: int
    path: str
    label: str
    split: str
    source: str
    group: str


def list_manifest(manifest: str, excluded: Excluded) -> Listing:
    """List the images that a manifest names, there or not; raises UserError for what is wrong in it.

    Where no file has a path as it is written, blanks around it count as none, then a backslash as a slash.
    """
    folder = os.path.dirname(manifest)
    base = folder if is_remote(folder) else os.path.abspath(folder)
    rows: dict[str, Row] = {}
    for row in read_rows(manifest):
        row = row._replace(path=_find_spelling(row.path, folder))
        key = find_key(row.path, base)
        if not excluded(key):
            first = rows.setdefault(key, row)
            for column, before, now in zip(COLUMNS[1:], first[2:], row[2:], strict=True):
                if before != now:
                    raise UserError(
                        f"Line {row.line} of {manifest!r} gives {key!r} the {column} {now!r}, line {first.line} gave "
                        f"it {before!r}: expected one row for each image, remove the wrong one."
                    )
    paths = {key: _locate(row.path, folder) for key, row in rows.items()}
    listed = _list_remote(paths.values())
    measured = {key: _measure(path, listed) for key, path in paths.items()}
    _check_some_exist(manifest, rows, paths, measured)
    files = [
        ImageFile(key, paths[key], row.label, row.source, row.group, row.split, *(measured[key] or (0, 0)))
        for key, row in sorted(rows.items())
        if row.label
    ]
    unlabelled = [paths[key] for key in sorted(rows, key=natural_key) if not rows[key].label]
    return Listing(files, order_classes(file.text for file in files), [], unlabelled)


def _find_spelling(path: str, folder: str) -> str:
    bare = path.strip()
    spellings = [path, bare, bare.replace("\\", "/")]
    if spellings[0] == spellings[-1] or is_url(bare):
        return bare
    exists = os.path.exists if not is_remote(folder) else lambda place: as_path(place).exists()
    return next((spelling for spelling in spellings if exists(_locate(spelling, folder))), bare)


def _check_some_exist(
    manifest: str, rows: Mapping[str, Row], paths: Mapping[str, str], measured: Mapping[str, tuple[int, int] | None]
) -> None:
    """Raise UserError where none of the files exists: then it is the paths that are wrong, and not the files."""
    if rows and not any(measured.values()):
        key, row = next(iter(rows.items()))
        place = paths[key] if is_url(paths[key]) else os.path.abspath(paths[key])
        raise UserError(
            f"None of the {len(rows)} files that {manifest!r} names exists, the first {row.path!r} of line {row.line} "
            f"would be {place!r}: expected paths relative to the folder of the manifest, absolute ones or gs:// "
            f"addresses, mend them there."
        )


def find_key(path: str, base: str) -> str:
    """Return a manifest's path relative to its absolute folder where it lies below that, else absolute, or its URL."""
    if is_url(path):
        return path
    absolute = _locate(path, base) if is_remote(base) else os.path.normpath(os.path.join(base, path))
    return absolute[len(os.path.join(base, "")) :] if absolute.startswith(os.path.join(base, "")) else absolute


def is_url(path: str) -> bool:
    """Tell a URL such as gs://bucket/image.jpg from a local path."""
    return bool(re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", path))


def _locate(path: str, folder: str) -> str:
    """Return where a manifest's image lies, given the manifest's own folder."""
    if is_url(path):
        return path
    if is_remote(folder) and not path.startswith("/"):  # no '..' is followed there
        return REMOTE + os.path.normpath(f"{folder[len(REMOTE) :]}/{path}")
    return os.path.join(folder, path)


def _list_remote(paths: Iterable[str]) -> dict[str, Status]:
    """Return what lies in the remote folders of paths: a listing tells of a thousand files, a request of one."""
    listed = {}
    for folder in {path.rpartition("/")[0] for path in paths if is_remote(path)}:
        try:
            for name, status in walk_objects(as_path(folder), nested=False):
                listed[f"{folder}/{name}"] = status
        except FileNotFoundError:  # ingest rejects what is to be read there
            continue
        except storage_errors() as error:
            raise UserError(f"Cannot list {folder!r} ({describe_error(error)}): check its permissions.") from error
    return listed


def _measure(path: str, listed: Mapping[str, Status]) -> tuple[int, int] | None:
    """Return bytes and time of change of a file, None where it is missing; 0 for what cannot be asked, or read."""
    if is_url(path):
        return listed.get(path) if is_remote(path) else (0, 0)
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.ELOOP, errno.ENAMETOOLONG):
            raise UserError(f"Cannot read {path!r} ({error.strerror}): mend that and run again.") from error
        return 0, 0  # ingest rejects it with its reason
    return status.st_size, status.st_mtime_ns


def read_rows(manifest: str) -> Iterator[Row]:
    """Yield the rows of a manifest; raises UserError with the line of one that is wrong, or for an unreadable file."""
    objects = manifest.lower().endswith(".jsonl")
    read = _read_objects if objects else _read_table
    try:
        # The csv module wants its line breaks as they are; names that are not UTF-8 are kept as the file system does.
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
    """Yield the number of the first line of each row, and its values by column."""
    # Strict, or else a quote that is not closed would swallow the rest of the file.
    table = csv.reader(file, "excel-tab" if manifest.lower().endswith(".tsv") else "excel", strict=True)
    header: list[str] = []
    line = 1
    try:
        for row in table:
            if not header:
                header = _check_header(manifest, row)
            elif row:
                if len(row) != len(header):
                    raise _refusal(manifest, line, f"has {len(row)} value(s)", f"{len(header)}, as in the header")
                yield line, dict(zip(header, row, strict=True))
            line = table.line_num + 1
    except csv.Error as error:
        raise _refusal(manifest, line, f"cannot be parsed ({error})", "quotes that are closed") from error
    if not header:
        _check_header(manifest, [])


def _check_header(manifest: str, names: list[str]) -> list[str]:
    header = [name.strip().lower() for name in names]
    wrong = [column for column in COLUMNS if header.count(column) != (column in COLUMNS[:2] or column in header)]
    if wrong:
        found = f"has the column {wrong[0]!r} {header.count(wrong[0])} times"
        raise _refusal(manifest, 1, found, "a header with 'path' and 'label' once each")
    return header


def _read_objects(file: TextIO, manifest: str) -> Iterator[tuple[int, Mapping[str, str]]]:
    """Yield the number of each line with its values; numbers become strings, as they are written."""
    for line, text in enumerate(file, 1):
        if not text.strip():
            continue
        try:
            values = json.loads(text, parse_int=str, parse_float=str)
        except (ValueError, RecursionError) as error:
            raise _refusal(manifest, line, "is not valid JSON", 'an object with "path" and "label"') from error
        if not isinstance(values, dict):
            raise _refusal(manifest, line, "is not a JSON object", 'an object with "path" and "label"')
        values = {column: "" if values.get(column) is None else values[column] for column in COLUMNS}
        for column, value in values.items():
            if not isinstance(value, str):
                raise _refusal(manifest, line, f"has the {column} {json.dumps(value)}", "a string or a number")
        yield line, values


def _check_row(manifest: str, line: int, values: Mapping[str, str]) -> Row:
    path = values["path"]
    label, split, source, group = (values.get(column, "").strip() for column in COLUMNS[1:])
    if not path.strip():
        raise _refusal(manifest, line, "has no path", "the path of an image")
    # No file can be named so: neither NUL nor surrogates other than those that stand for broken UTF-8.
    if re.search("[\0\ud800-\udc7f\udd00-\udfff]", path):
        raise _refusal(manifest, line, f"has the path {path!r}", "one without null characters and lone surrogates")
    if split.lower() not in ("", *SPLIT_WORDS):
        raise _refusal(manifest, line, f"has the split {split!r}", "train, val or test, or nothing")
    split = SPLIT_WORDS.get(split.lower(), "")
    if not label and split != "test":
        raise _refusal(manifest, line, "has no label", "a class, which only images of the test split may lack")
    if not is_one_line(label):
        raise _refusal(manifest, line, f"has the label {label!r}", "UTF-8 on one line")
    return Row(line, path, *(sys.intern(value) for value in (label, split, source, group)))


def _refusal(manifest: str, line: int, found: str, expected: str) -> UserError:
    return UserError(f"Line {line} of {manifest!r} {found}: expected {expected}, mend it there.")
