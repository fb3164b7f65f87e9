"""The entry of a data set's list of images."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

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
