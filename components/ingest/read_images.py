"""Read and check listed image files; without Beam, which the child process of isolated_reader does not need."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence

from components.data.image_file import ImageFile
from components.data.tfrecords import read_record
from components.images.check import CheckedImage, check_images, read_file
from components.images.formats import Limits
from components.rejects import UNREADABLE, RejectedImage
from components.storage.places import do_side_by_side, is_remote
from components.storage.reading import try_reading


def read_images(files: Sequence[ImageFile], limits: Limits) -> list[CheckedImage | RejectedImage]:
    """Return the checked image or the reject of each file, in order; raises OSError if the storage fails."""
    read = functools.partial(_read_content, limits=limits)
    contents = do_side_by_side(read, files, any(is_remote(file.path) for file in files))
    checked = iter(check_images([content for content in contents if isinstance(content, bytes)], limits))
    return [next(checked) if isinstance(content, bytes) else content for content in contents]


def _read_content(file: ImageFile, limits: Limits) -> bytes | RejectedImage:
    try:
        if file.offset >= 0:
            return read_record(file.path, file.offset)
        content = read_file(file.path, limits)
        try_reading(lambda: _check_status(file), file.path)
        return content
    except RejectedImage as rejected:
        return rejected


def _check_status(file: ImageFile) -> None:
    """Raise RejectedImage for a local file that changed since it was listed; the next run lists and reads it again."""
    if file.modified_ns and "://" not in file.path:
        status = os.stat(file.path)
        if (status.st_size, status.st_mtime_ns) != (file.size, file.modified_ns):
            raise RejectedImage(UNREADABLE, "changed while the run read it: run again when nothing writes to it")
