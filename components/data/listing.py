"""List the images of a data set, whatever its layout: each file with its class, source, group and split."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

from components.data.class_names import check_spelling, describe_doubtful, match_labels, order_classes, read_labels_file
from components.data.columns import Words
from components.data.folders import list_folder
from components.data.image_file import TFRECORD, Excluded
from components.data.image_list import ImageList, Listing
from components.data.keys import find_patterns, group_finder, name_roots
from components.data.manifests import list_manifest
from components.errors import UserError
from components.features import AUTO, SPLITS
from components.storage.places import as_path, describe_error, storage_errors
from components.storage.tables import escape_name

MANIFESTS = (".csv", ".tsv", ".jsonl")
ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".7z", ".rar")
EXPECTED = "give a folder with one sub-folder of images per class, or a .csv, .tsv or .jsonl manifest"


def list_images(
    path: str | os.PathLike[str] | Sequence[str],
    exclude: Sequence[str] = (),
    labels_file: str | None = None,
    group_pattern: str | None = None,
    layout: str = AUTO,
    runs: Sequence[str] = (),
) -> Listing:
    """List the images of a folder, a manifest, a pattern of TFRecord files, or a list of these.

    With a list, each key begins with the name of its root. Keys that match a pattern of exclude, or below a folder that
    does, are left out; so are run directories, by the patterns in runs. labels_file is a file with the classes in
    order. group_pattern finds the group in a key. layout says whether the folders directly in a folder are classes or
    splits, or auto, which decides by their names. Raises UserError for data that cannot be used.
    """
    find_group = group_finder(group_pattern)
    unused = set(exclude)

    def excluded(key: str) -> bool:
        found = find_patterns(key, exclude)
        unused.difference_update(found)
        return bool(found or find_patterns(key, runs))

    if isinstance(path, (str, os.PathLike)):
        shown, listing = repr(os.fspath(path)), _list_root(os.fspath(path), excluded, layout)
    else:
        roots = [os.fspath(root) for root in path]
        shown = ", ".join(map(repr, roots))
        listing = _join(
            [_list_below(root, name, excluded, layout) for root, name in zip(roots, name_roots(roots), strict=True)]
        )
    if not listing.files:
        raise UserError(f"{shown} has no image of a class: {EXPECTED}.")
    files = listing.files
    if "" in files.groups.count():
        found = (group or find_group(key) for group, key in zip(files.groups, files.read_keys(), strict=True))
        files = replace(files, groups=Words.collect(found))
    # TFMA makes no slice of text that is not Unicode.
    files = replace(files, sources=files.sources.map(escape_name))
    check_spelling({text: files[row].key for text, row in files.texts.find_first().items()})
    notes = [*listing.notes]
    notes += [
        f"The pattern {pattern!r} of data.exclude leaves nothing out: patterns are compared with whole paths below the "
        f"root, such as {files[0].key!r}."
        for pattern in exclude
        if pattern in unused
    ]
    labels = listing.labels
    if labels_file:
        labels = read_labels_file(labels_file)
        match_labels(labels, files.texts.count(), labels_file)
    if len(labels) == 1:
        raise UserError(f"{shown} has the single class {labels[0]!r}: a classifier needs two or more classes.")
    notes += describe_doubtful(labels)
    return listing._replace(
        files=files, labels=labels, ordered=listing.ordered or labels_file is not None, notes=tuple(notes)
    )


def _list_root(root: str, excluded: Excluded, layout: str) -> Listing:
    name = os.path.basename(root)
    try:
        is_folder, exists = as_path(root).is_dir(), as_path(root).exists()
    except storage_errors() as error:
        raise UserError(f"Cannot read {root!r} ({describe_error(error)}): check its permissions.") from error
    if is_folder:
        listing = list_folder(root, excluded, layout)
        if not listing.files and any(TFRECORD in reject.key for reject in listing.rejects):
            listing = _list_tfrecords(root, excluded)
    elif name.lower().endswith(MANIFESTS):
        listing = list_manifest(root, excluded)
    elif TFRECORD in name:
        listing = _list_tfrecords(root, excluded)
    elif exists and name.lower().endswith(ARCHIVES):
        raise UserError(f"{root!r} is an archive: unpack it, then {EXPECTED}.")
    elif exists:
        raise UserError(f"{root!r} is a file, not a folder, a manifest or TFRecords: {EXPECTED}.")
    else:
        raise UserError(f"There is no folder {root!r}: {EXPECTED}.")
    if not listing.files and not listing.unlabelled:
        first = listing.rejects[0] if listing.rejects else None
        if first and all(reject.key.lower().endswith(ARCHIVES) for reject in listing.rejects):
            raise UserError(f"{root!r} contains only archives, the first {first.key!r}: unpack them, then {EXPECTED}.")
        found = f" (rejected: {len(listing.rejects)}, the first {first.key!r}, {first.detail})" if first else ""
        raise UserError(f"{root!r} has no image in any sub-folder, row or record{found}: {EXPECTED}.")
    return listing


def _list_tfrecords(root: str, excluded: Excluded) -> Listing:
    from components.data.tfrecords import list_tfrecords  # TensorFlow loads slowly, and only these need it

    return list_tfrecords(root, excluded)


def _list_below(root: str, name: str, excluded: Excluded, layout: str) -> Listing:
    listing = _list_root(root, lambda key: excluded(f"{name}/{key}"), layout)
    rejects = [reject._replace(key=f"{name}/{reject.key}") for reject in listing.rejects]
    return listing._replace(files=listing.files.put_below(name), rejects=rejects)


def _join(listings: Sequence[Listing]) -> Listing:
    """Return one listing of several; it keeps the order of labels only if one listing has all labels."""
    found = {text for listing in listings for text in listing.labels}
    longest = max((listing.labels for listing in listings), key=len)
    complete = len(longest) == len(found)
    open_splits = {split for listing in listings for split in listing.open_splits}
    return Listing(
        files=ImageList.join([listing.files for listing in listings]).sort(),
        labels=longest if complete else order_classes(found),
        rejects=sorted(reject for listing in listings for reject in listing.rejects),
        unlabelled=[path for listing in listings for path in listing.unlabelled],
        open_splits=tuple(split for split in SPLITS if split in open_splits),
        ordered=complete and any(listing.ordered for listing in listings),
        notes=tuple(note for listing in listings for note in listing.notes),
    )
