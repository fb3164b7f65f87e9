"""The entries of a data set's list of images, and the list itself."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

from components.features import SPLITS
from components.rejects import Reject

TFRECORD = ".tfrecord"
# Maps a key, or a folder above one, to whether the list leaves it out.
Excluded = Callable[[str], bool]


class ImageFile(NamedTuple):
    """An image in the list, not read yet."""

    key: str  # identity in the data set: path below the root, '/' separated
    path: str  # a local path or a URL such as gs://
    text: str  # class
    source: str  # the folders between class and file, the manifest's column, or ''
    group: str  # images of one group stay in one split; '' for an image without a group
    split: str  # train, val or test if the layout fixes it, else ''
    size: int  # bytes, 0 if unknown
    modified_ns: int  # 0 if unknown
    offset: int = -1  # of its record in a TFRecord file, -1 for a file of its own


class Listing(NamedTuple):
    """The images at one place or several."""

    files: list[ImageFile]  # sorted by their keys, which are unique
    labels: list[str]  # in natural order, or in that of labels.txt or of the class numbers of TFRecords
    rejects: list[Reject]  # files that cannot be listed as an image of a class
    unlabelled: list[str]  # paths of images without a class, for prediction only
    open_splits: tuple[str, ...] = SPLITS  # the images without a split are divided among these
    ordered: bool = False  # the labels are in the user's order, not the natural one
    notes: tuple[str, ...] = ()  # sentences for the user

    def fingerprint(self) -> str:
        """Return the SHA-256 of the whole list, as hex digits; a changed path, size or time of a file changes it."""
        digest = hashlib.sha256(ascii(self[1:]).encode())
        for file in self.files:
            digest.update(ascii(file[:]).encode())
        return digest.hexdigest()


def open_train(files: Sequence[ImageFile]) -> tuple[list[ImageFile], tuple[str, ...]]:
    """Return files and the open splits; if val or test has no file, files of train lose their split.

    So a data set with train and test gets its val from train, and its test stays unchanged.
    """
    given = {file.split for file in files}
    missing = [split for split in SPLITS[1:] if split not in given]
    if not missing:
        return list(files), SPLITS if "" in given else ()
    return [file._replace(split="") if file.split == "train" else file for file in files], ("train", *missing)
