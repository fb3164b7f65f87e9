"""List a folder tree of images: class folders, or split folders that contain class folders."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from components.data.class_names import check_spelling, is_one_line, natural_key, order_classes
from components.data.columns import Words
from components.data.image_file import Excluded, ImageFile
from components.data.image_list import ImageList, Listing, open_train
from components.data.keys import is_system_file
from components.data.split_words import CLASSES, find_splits
from components.errors import UserError
from components.rejects import BAD_NAME, NO_CLASS, UNREADABLE, Reject
from components.storage.places import as_path, describe_error, is_remote, storage_errors, walk_objects


def list_folder(root: str, excluded: Excluded, layout: str) -> Listing:
    """List <root>/<class>/.../<file> or <root>/<split>/<class>/.../<file>.

    The layout is classes, splits, or auto, which decides by the folder names. Raises UserError for splits that cannot
    be used, and for names that allow both readings.
    """
    links: list[Reject] = []
    found = walk_remote(root, excluded) if is_remote(root) else walk(root, excluded, links)
    files = ImageList.collect(found).sort()
    folders = {key.rpartition("/")[0] for key in files.read_keys() if "/" in key} | {link.key for link in links}
    splits = {} if layout == CLASSES else find_splits(root, folders, layout)
    files, strays = _assign_classes(files, splits)
    if splits:
        listing = _list_splits(root, files, strays, splits)
    else:
        files = files.select(_has_class(files))
        listing = Listing(files, order_classes(files.texts.count()), strays, [])
    return listing._replace(rejects=sorted(links + listing.rejects))


def walk(root: str, excluded: Excluded, links: list[Reject]) -> Iterator[ImageFile]:
    """Yield all files below a folder, without class; add a reject to links for each link to a folder above it.

    Other links to folders are followed. Raises UserError for a folder that cannot be read: its images would be missing
    from the data set.
    """
    waiting: list[tuple[str, str, tuple[tuple[int, int], ...]]] = [("", root, ())]
    while waiting:
        prefix, folder, above = waiting.pop()
        try:
            status = os.stat(folder)
            identity = (status.st_dev, status.st_ino)
            if identity in above:
                links.append(Reject(prefix[:-1], UNREADABLE, "a link to a folder above it"))
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
                    yield ImageFile(key, entry.path, "", "", "", "", 0, 0)  # a broken link, which ingest rejects
                    continue
                if stat.S_ISDIR(status.st_mode):
                    waiting.append((f"{key}/", entry.path, (*above, identity)))
                else:
                    yield ImageFile(key, entry.path, "", "", "", "", status.st_size, status.st_mtime_ns)
        except OSError as error:
            cure = f"correct that, or name {prefix[:-1]!r} in data.exclude" if prefix else "check its permissions"
            raise UserError(f"Cannot read {folder!r} ({error.strerror or error}): {cure}.") from error


def walk_remote(root: str, excluded: Excluded) -> Iterator[ImageFile]:
    """Yield all objects below a folder of an object store as walk does."""
    try:
        for key, (size, changed) in walk_objects(as_path(root)):
            if not any(map(is_system_file, key.split("/"))) and not excluded(key):
                yield ImageFile(key, f"{root.rstrip('/')}/{key}", "", "", "", "", size, changed)
    except storage_errors() as error:
        raise UserError(
            f"Cannot read {root!r} ({describe_error(error)}): check the path, your credentials and the network."
        ) from error


def _assign_classes(files: ImageList, splits: Mapping[str, str]) -> tuple[ImageList, list[Reject]]:
    """Return all files, with class, source and split by the folders of their keys, and rejects for those without class.

    splits maps folders directly in the root to splits; elsewhere the first folder is the class.
    """
    rejects: list[Reject] = []

    def read(key: str) -> tuple[str, str, str]:
        first, *rest = key.split("/")
        split, folders = (splits[first], rest[:-1]) if rest and splits else ("", [first, *rest][:-1])
        if not folders:
            rejects.append(Reject(key, NO_CLASS, "is beside the class folders, not in one"))
        elif not is_one_line(folders[0]):
            detail = f"its class folder {folders[0]!r} is not UTF-8 or has a line break, rename that folder"
            rejects.append(Reject(key, BAD_NAME, detail))
        else:
            return folders[0], "/".join(folders[1:]), split
        return "", "", split

    texts, sources, splits_column = Words.collect_columns(3, map(read, files.read_keys()))
    return replace(files, texts=texts, sources=sources, splits=splits_column), rejects


def _has_class(files: ImageList) -> np.ndarray:
    return np.array([bool(text) for text in files.texts.words], bool)[files.texts.codes]


def _list_splits(root: str, files: ImageList, rejects: list[Reject], splits: Mapping[str, str]) -> Listing:
    """Return the listing of files with their splits; splits maps folders directly in the root to splits."""
    tops = Words.collect(key.partition("/")[0] if "/" in key else "" for key in files.read_keys())
    has_class = _has_class(files)
    kept = has_class.copy()
    examples: dict[str, str] = {}
    classes: set[str] = set()  # of train, which comes first
    unlabelled: list[ImageFile] = []
    for top, split in sorted(splits.items(), key=lambda item: (item[1] != "train", item)):
        within = np.flatnonzero(tops.codes == tops.find(top))
        found = within[has_class[within]]
        inside = {text: files[int(found[row])].key for text, row in files.texts.take(found).find_first().items()}
        examples = {**inside, **examples}
        check_spelling(examples)
        # A test folder without classes is unlabelled, and so is one with a single folder, as Kaggle's test/unknown.
        if split == "test" and len(within) and len(inside) < 2 and not inside.keys() & classes:
            unlabelled += files.read(within)
            kept[within] = False
            rejects = [reject for reject in rejects if reject.key.partition("/")[0] != top]
            examples = {text: key for text, key in examples.items() if key.partition("/")[0] != top}
            continue
        if not inside:
            raise UserError(
                f"{os.path.join(root, top)!r} has no readable class folder with images: data.path has split folders, "
                f"so expected one sub-folder of images per class in each."
            )
        if split == "train":
            classes |= inside.keys()
        elif inside.keys() - classes:
            unknown = min(inside.keys() - classes, key=natural_key)
            raise UserError(
                f"Class {unknown!r} of {os.path.join(root, top)!r} is not among the classes of train: add images of "
                f"it there, or name it in data.exclude."
            )
    files, open_splits = open_train(files.select(kept))
    paths = [file.path for file in sorted(unlabelled, key=lambda file: natural_key(file.key))]
    return Listing(files, order_classes(files.texts.count()), rejects, paths, open_splits)
