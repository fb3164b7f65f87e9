"""An image as it is listed, and the list of all."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

from components.features import SPLITS
from components.rejects import Reject

TFRECORD = ".tfrecord"
# Tells of a key, or of a folder above one, whether to leave it out.
Excluded = Callable[[str], bool]


class ImageFile(NamedTuple):
    """An image as it was listed, not yet read."""

    key: str  # identity in the data set: path below the root, '/' separated
    path: str  # where to read it: a local path or a URL such as gs://
    text: str  # class
    source: str  # the folders between class and file, or the manifest's column, or ''
    group: str  # images of one group must stay in one split; '' where an image stands alone
    split: str  # train, val or test where the layout fixes it, else ''
    size: int  # bytes, 0 where unknown
    modified_ns: int  # 0 where unknown
    offset: int = -1  # of its record in a TFRecord file, -1 for a file of its own


class Listing(NamedTuple):
    """What was found at one place or several."""

    files: list[ImageFile]  # sorted by their keys, which are unique
    labels: list[str]  # natural order, or that of the user's labels.txt or of the label numbers of TFRecords
    rejects: list[Reject]  # what was found but cannot be listed as an image of a class
    unlabelled: list[str]  # paths of images without a class, for prediction only
    open_splits: tuple[str, ...] = SPLITS  # among which the images without a split are divided
    ordered: bool = False  # whether the order of the labels is the user's own, not the natural one
    notes: tuple[str, ...] = ()  # what a person should know of it, a sentence each

    def fingerprint(self) -> str:
        """Hash of all that was listed, each file with its path, size and time of change."""
        digest = hashlib.sha256(ascii(self[1:]).encode())
        for file in self.files:
            digest.update(ascii(file[:]).encode())
        return digest.hexdigest()


def open_train(files: Sequence[ImageFile]) -> tuple[list[ImageFile], tuple[str, ...]]:
    """Return files with those of train freed from their split where val or test has none, and the open splits.

    So val is carved out of train where a data set comes with train and test, and its test images stay what they are.
    """
    given = {file.split for file in files}
    missing = [split for split in SPLITS[1:] if split not in given]
    if not missing:
        return list(files), SPLITS if "" in given else ()
    return [file._replace(split="") if file.split == "train" else file for file in files], ("train", *missing)
