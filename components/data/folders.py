"""List a folder tree of images: class folders, or split folders that contain class folders."""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import NamedTuple

from components.data.class_names import check_spelling, is_one_line, natural_key, order_classes
from components.data.image_file import Excluded, ImageFile, Listing, open_train
from components.data.keys import is_system_file
from components.data.split_words import CLASSES, find_splits
from components.errors import UserError
from components.rejects import BAD_NAME, NO_CLASS, UNREADABLE, Reject
from components.storage.places import as_path, describe_error, is_remote, storage_errors, walk_objects


class Entry(NamedTuple):
    """A file or other non-folder: key below the root, path, bytes and time of change (0 if unknown)."""

    key: str
    path: str
    size: int
    modified_ns: int


def list_folder(root: str, excluded: Excluded, layout: str) -> Listing:
    """List <root>/<class>/.../<file> or <root>/<split>/<class>/.../<file>.

    The layout is classes, splits, or auto, which decides by the folder names. Raises UserError for splits that cannot
    be used, and for names that allow both readings.
    """
    entries, rejects = (walk_remote if is_remote(root) else walk)(root, excluded)
    folders = {entry.key.rpartition("/")[0] for entry in entries if "/" in entry.key}
    folders |= {reject.key for reject in rejects}
    splits = {} if layout == CLASSES else find_splits(root, folders, layout)
    if splits:
        listing = _list_splits(root, entries, splits)
    else:
        files, strays = _assign_classes(entries, depth=0, split="")
        listing = Listing(files, order_classes(file.text for file in files), strays, [])
    return listing._replace(rejects=sorted(rejects + listing.rejects))


def walk(root: str, excluded: Excluded) -> tuple[list[Entry], list[Reject]]:
    """Return all files below a folder, sorted by key, and a reject for each link to a folder above it.

    Other links to folders are followed. Raises UserError for a folder that cannot be read: its images would be missing
    from the data set.
    """
    entries, rejects = [], []
    waiting: list[tuple[str, str, tuple[tuple[int, int], ...]]] = [("", root, ())]
    while waiting:
        prefix, folder, above = waiting.pop()
        try:
            status = os.stat(folder)
            identity = (status.st_dev, status.st_ino)
            if identity in above:
                rejects.append(Reject(prefix[:-1], UNREADABLE, "a link to a folder above it"))
                continue
            with os.scandir(folder) as scan:
                found = list(scan)
            for entry in found:
                key = prefix + entry.name
                if is_system_file(entry.name) or excluded(key):
                    continue
                try:
                    status = entry.stat()
                except OSError as error:
                    if error.errno not in (errno.ENOENT, errno.ELOOP):
                        raise
                    entries.append(Entry(key, entry.path, 0, 0))  # a broken link, which ingest rejects
                    continue
                if stat.S_ISDIR(status.st_mode):
                    waiting.append((f"{key}/", entry.path, (*above, identity)))
                else:
                    entries.append(Entry(key, entry.path, status.st_size, status.st_mtime_ns))
        except OSError as error:
            cure = f"correct that, or name {prefix[:-1]!r} in data.exclude" if prefix else "check its permissions"
            raise UserError(f"Cannot read {folder!r} ({error.strerror or error}): {cure}.") from error
    return sorted(entries), sorted(rejects)


def walk_remote(root: str, excluded: Excluded) -> tuple[list[Entry], list[Reject]]:
    """Return all objects below a folder of an object store as walk does, without rejects."""
    entries = []
    try:
        for key, (size, changed) in walk_objects(as_path(root)):
            if not any(map(is_system_file, key.split("/"))) and not excluded(key):
                entries.append(Entry(key, f"{root.rstrip('/')}/{key}", size, changed))
    except storage_errors() as error:
        raise UserError(
            f"Cannot read {root!r} ({describe_error(error)}): check the path, your credentials and the network."
        ) from error
    return sorted(entries), []


def _assign_classes(entries: Sequence[Entry], depth: int, split: str) -> tuple[list[ImageFile], list[Reject]]:
    """Return files for entries with a folder at a depth of their key, the class, and rejects for the others."""
    files, rejects = [], []
    for key, path, size, modified_ns in entries:
        folders = key.split("/")[depth:-1]
        if not folders:
            rejects.append(Reject(key, NO_CLASS, "is beside the class folders, not in one"))
        elif not is_one_line(folders[0]):
            detail = f"its class folder {folders[0]!r} is not UTF-8 or has a line break, rename that folder"
            rejects.append(Reject(key, BAD_NAME, detail))
        else:
            # Interned, because a million files share few names.
            text, source = sys.intern(folders[0]), sys.intern("/".join(folders[1:]))
            files.append(ImageFile(key, path, text, source, "", split, size, modified_ns))
    return files, rejects


def _list_splits(root: str, entries: Sequence[Entry], splits: Mapping[str, str]) -> Listing:
    """List the class folders below split folders; splits maps folder names to splits."""
    within: dict[str, list[Entry]] = {top: [] for top in splits}
    files, rejects = _assign_classes([entry for entry in entries if "/" not in entry.key], depth=0, split="")
    for entry in entries:
        if "/" in entry.key:
            within[entry.key.partition("/")[0]].append(entry)
    classes: set[str] = set()  # of train, which comes first
    unlabelled: list[Entry] = []
    for top, split in sorted(splits.items(), key=lambda item: (item[1] != "train", item)):
        found, strays = _assign_classes(within[top], depth=1, split=split)
        inside = {file.text for file in found}
        check_spelling({file.text: file.key for file in chain(found, files)})
        # A test folder without classes is unlabelled, and so is one with a single folder, as Kaggle's test/unknown.
        if split == "test" and within[top] and len(inside) < 2 and not inside & classes:
            unlabelled += within[top]
            continue
        if not inside:
            raise UserError(
                f"{os.path.join(root, top)!r} has no readable class folder with images: data.path has split folders, "
                f"so expected one sub-folder of images per class in each."
            )
        if split == "train":
            classes |= inside
        elif inside - classes:
            unknown = min(inside - classes, key=natural_key)
            raise UserError(
                f"Class {unknown!r} of {os.path.join(root, top)!r} is not among the classes of train: add images of "
                f"it there, or name it in data.exclude."
            )
        files += found
        rejects += strays
    files, open_splits = open_train(files)
    unlabelled.sort(key=lambda entry: natural_key(entry.key))
    paths = [entry.path for entry in unlabelled]
    return Listing(sorted(files), order_classes(file.text for file in files), rejects, paths, open_splits)
