"""List a folder tree: class folders, or folders named train, val and test that hold class folders."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import NamedTuple

from components.class_names import check_spelling, is_one_line, natural_key, order_classes
from components.errors import UserError
from components.keys import is_litter
from components.listing import AUTO, CLASSES, SPLIT_FOLDERS, Excluded, ImageFile, Listing, open_train
from components.places import as_path, describe_error, is_remote, storage_errors, walk_objects
from components.rejects import BAD_NAME, NO_CLASS, UNREADABLE, Reject
from components.split_words import read_split


class Entry(NamedTuple):
    """Whatever is not a folder: its path below the root, the path to it, bytes and time of change (0 if unknown)."""

    key: str
    path: str
    size: int
    modified_ns: int


def list_folder(root: str, excluded: Excluded, layout: str) -> Listing:
    """List <root>/<class>/.../<file> or <root>/<split>/<class>/.../<file>, as layout says or, at auto, the names.

    Raises UserError for splits that cannot be used, and where the names leave it in doubt.
    """
    entries, rejects = (walk_remote if is_remote(root) else walk)(root, excluded)
    folders = {entry.key.rpartition("/")[0] for entry in entries if "/" in entry.key}
    folders |= {reject.key for reject in rejects}
    splits = {} if layout == CLASSES else _find_splits(root, folders, layout)
    if splits:
        listing = _list_splits(root, entries, splits)
    else:
        files, strays = _assign_classes(entries, depth=0, split="")
        listing = Listing(files, order_classes(file.text for file in files), strays, [])
    return listing._replace(rejects=sorted(rejects + listing.rejects))


def _find_splits(root: str, folders: set[str], layout: str) -> dict[str, str]:
    """Return the split of each folder directly in the root, nothing where they are classes, given all with files.

    Raises UserError where they are neither all splits nor all classes beyond doubt.
    """
    parts = [folder.split("/") for folder in folders]
    tops = sorted({part[0] for part in parts}, key=natural_key)
    deep = {part[0] for part in parts if len(part) > 1}  # those with folders that can be classes
    named = {top: name for top in tops if (name := read_split(top))}
    by_rest = {
        rest: {top: name.split for top, name in named.items() if name.rest == rest}
        for rest in {name.rest for name in named.values()}
    }
    # Of names such as seg_train only several make splits: bullet_train alone is a class.
    splits = {
        top: split
        for rest, found in by_rest.items()
        if not rest or ("train" in found.values() and len({*found.values()}) > 1)
        for top, split in found.items()
    }
    if layout == SPLIT_FOLDERS:
        splits = {top: name.split for top, name in named.items()}
    elif [*splits] == [top for top in splits if top.lower() == "train" and top not in deep]:
        _check_inner(root, tops, parts)
        return {}  # none, or a class of trains among others
    strangers = [top for top in tops if top not in splits]
    twice = [split for split in sorted({*splits.values()}) if [*splits.values()].count(split) > 1]
    bare = [top for top, split in splits.items() if split == "train" and top not in deep]
    if strangers:
        doubt, cure = f"{strangers[0]!r} beside them is not", "name that in data.exclude"
    elif "train" not in splits.values():
        doubt, cure = "none of them as the train split", "rename the one to train on"
    elif twice:
        doubt, cure = f"several of them as the {twice[0]} split", "put their images into one"
    elif bare:
        doubt, cure = f"{bare[0]!r} has no class folders with images", "make one for each class in it"
    elif layout == AUTO and len(by_rest) > 1:
        doubt, cure = "each in its own way", f"set data.layout to {SPLIT_FOLDERS}"
    else:
        return splits
    shown = ", ".join(map(repr, [*splits][:5])) or "none"
    raise UserError(
        f"Of the folders in {root!r}, {shown} are named as splits, but {doubt}: if they are splits, {cure}, and if "
        f"they are classes, set data.layout to {CLASSES}."
    )


def _check_inner(root: str, tops: Sequence[str], parts: list[list[str]]) -> None:
    """Raise UserError for splits below the classes, as in cat/train: they would be mixed."""
    inner = {part[1]: part[0] for part in sorted(parts, reverse=True) if len(part) > 1}
    splits = {name: found.split for name in inner if (found := read_split(name)) and not found.rest}
    if "train" in splits.values() and len({*splits.values()}) > 1:
        first = next(name for name in splits if splits[name] == "train")
        place = os.path.join(root, inner[first])
        cure = f"set data.path to {place!r}" if len(tops) == 1 else "put the folders of the splits above the classes"
        raise UserError(
            f"{os.path.join(place, first)!r} is named as a split, but lies below a folder that is read as a class: if "
            f"it is a split, {cure}, and if not, set data.layout to {CLASSES}."
        )


def walk(root: str, excluded: Excluded) -> tuple[list[Entry], list[Reject]]:
    """Return all below a folder that is not a folder, sorted by key, and a reject for each link to a folder above it.

    Other links to folders are followed. Raises UserError for a folder that cannot be read: nobody knows which images it
    holds, so the data set is not known.
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
                if is_litter(entry.name) or excluded(key):
                    continue
                if _is_folder(entry):
                    waiting.append((f"{key}/", entry.path, (*above, identity)))
                else:
                    entries.append(_measure(key, entry))
        except OSError as error:
            cure = f"mend that, or name {prefix[:-1]!r} in data.exclude" if prefix else "check its permissions"
            raise UserError(f"Cannot read {folder!r} ({error.strerror or error}): {cure}.") from error
    return sorted(entries), sorted(rejects)


def walk_remote(root: str, excluded: Excluded) -> tuple[list[Entry], list[Reject]]:
    """Return all below a folder of an object store as walk does; there nothing is rejected."""
    entries = []
    try:
        for key, (size, changed) in walk_objects(as_path(root)):
            if not any(map(is_litter, key.split("/"))) and not excluded(key):
                entries.append(Entry(key, f"{root.rstrip('/')}/{key}", size, changed))
    except storage_errors() as error:
        raise UserError(
            f"Cannot read {root!r} ({describe_error(error)}): check the path, your credentials and the network."
        ) from error
    return sorted(entries), []


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        return False  # a link to itself: ingest cannot read it either and gives it its reject row


def _measure(key: str, entry: os.DirEntry[str]) -> Entry:
    try:
        status = entry.stat()
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ELOOP):
            raise
        return Entry(key, entry.path, 0, 0)  # a broken link: as above
    return Entry(key, entry.path, status.st_size, status.st_mtime_ns)


def _assign_classes(entries: Sequence[Entry], depth: int, split: str) -> tuple[list[ImageFile], list[Reject]]:
    """Make files of entries whose class is the folder at a depth of their keys, and rejects of the rest."""
    files, rejects = [], []
    for key, path, size, modified_ns in entries:
        folders = key.split("/")[depth:-1]
        if not folders:
            rejects.append(Reject(key, NO_CLASS, "lies beside the class folders, not in one"))
        elif not is_one_line(folders[0]):
            detail = f"its class folder {folders[0]!r} is not UTF-8 or holds a line break, rename that folder"
            rejects.append(Reject(key, BAD_NAME, detail))
        else:
            # Interned, as a million files share a few names.
            text, source = sys.intern(folders[0]), sys.intern("/".join(folders[1:]))
            files.append(ImageFile(key, path, text, source, "", split, size, modified_ns))
    return files, rejects


def _list_splits(root: str, entries: Sequence[Entry], splits: Mapping[str, str]) -> Listing:
    """List class folders below split folders, given what each is named; a test folder without classes is unlabelled."""
    within: dict[str, list[Entry]] = {top: [] for top in splits}
    files, rejects = _assign_classes([entry for entry in entries if "/" not in entry.key], depth=0, split="")
    for entry in entries:
        if "/" in entry.key:
            within[entry.key.partition("/")[0]].append(entry)
    classes: set[str] = set()
    unlabelled: list[Entry] = []
    for top, split in sorted(splits.items(), key=lambda item: (item[1] != "train", item)):
        found, strays = _assign_classes(within[top], depth=1, split=split)
        inside = {file.text for file in found}
        check_spelling({file.text: file.key for file in chain(found, files)})
        # Without class folders, or with a single one as in Kaggle's test/unknown.
        if split == "test" and within[top] and len(inside) < 2 and not inside & classes:
            unlabelled += within[top]
            continue
        if not inside:
            raise UserError(
                f"{os.path.join(root, top)!r} has no readable class folder with images: expected one sub-folder of "
                f"images per class in it, as data.path has folders for the splits."
            )
        if split == "train":
            classes |= inside
        elif inside - classes:
            stranger = min(inside - classes, key=natural_key)
            raise UserError(
                f"Class {stranger!r} of {os.path.join(root, top)!r} is not among the classes of train: add images of "
                f"it there, or name it in data.exclude."
            )
        files += found
        rejects += strays
    files, open_splits = open_train(files)
    unlabelled.sort(key=lambda entry: natural_key(entry.key))
    paths = [entry.path for entry in unlabelled]
    return Listing(sorted(files), order_classes(file.text for file in files), rejects, paths, open_splits)
