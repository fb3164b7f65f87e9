"""Data sets by name: one that is built in, and published ones that are downloaded at the first use."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from components.data.keys import is_system_file
from components.errors import UserError
from components.storage.archives import unpack
from components.storage.downloads import Remote, cache_folder, fetch
from components.storage.files import locked
from components.storage.ownership import replacing_folder
from components.terminal.progress import Progress


class Published(NamedTuple):
    """The archive of a data set; inner names an archive in it that has the images."""

    remote: Remote
    inner: str | None = None


CALTECH = "https://data.caltech.edu/records"
# Sizes in bytes and SHA-256 checksums of TensorFlow Datasets; None: the first download records its checksum.
PUBLISHED_DATASETS = {
    "flowers": Published(
        Remote(
            "http://download.tensorflow.org/example_images/flower_photos.tgz",
            "flower_photos.tgz",
            228813984,
            "4c54ace7911aaffe13a365c34f650e71dd5bf1be0a58b464e5a7183e3e595d9c",
        )
    ),
    "caltech101": Published(
        Remote(
            f"{CALTECH}/mzrjq-6wc02/files/caltech-101.zip?download=1",
            "caltech-101.zip",
            137414764,
            "331234750fc7f77520e50d9565e8b6907b03565e30320da1401130db08c61f91",
        ),
        inner="101_ObjectCategories.tar.gz",
    ),
    "caltech256": Published(
        Remote(
            f"{CALTECH}/nyy15-4j048/files/256_ObjectCategories.tar?download=1", "256_ObjectCategories.tar", None, None
        )
    ),
    "hugs": Published(
        Remote(
            "https://storage.googleapis.com/oscon-tf-workshop-materials/transfer_learning/hugs_photos.zip",
            "hugs_photos.zip",
            None,
            None,
        )
    ),
}
DIGITS = "digits"


def locate_dataset(name: str, progress: Progress) -> Path:
    """Return the folder of class folders of a named data set; the first use writes or downloads it into the cache."""
    if name != DIGITS:
        return _fetch_dataset(name, progress)
    folder = cache_folder() / DIGITS
    if not folder.is_dir():
        with locked(folder):  # only one of two simultaneous first runs writes
            if not folder.is_dir():
                _write_digits(folder)
    return folder


def _write_digits(folder: Path) -> None:
    """Write scikit-learn's 1797 handwritten digits as 8x8 PNG files into folders '0' to '9'."""
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    with replacing_folder(folder) as partial:
        for number, (pixels, digit) in enumerate(zip(digits.images, digits.target, strict=True)):
            (partial / str(digit)).mkdir(exist_ok=True)
            grey = (pixels * 255 / 16).astype("uint8")  # values are from 0 to 16
            Image.fromarray(grey).save(partial / str(digit) / f"{number:04d}.png")


def _fetch_dataset(name: str, progress: Progress) -> Path:
    published, folder = PUBLISHED_DATASETS[name], cache_folder() / "datasets" / name
    if not folder.is_dir():
        archive = fetch(published.remote, progress.report_bytes)
        if published.inner:
            outer = unpack(archive, folder.with_name(f"{name}-archive"))
            found = sorted(outer.rglob(published.inner))
            if not found:
                raise UserError(
                    f"'{archive}' contains no {published.inner}: expected {name} as published, delete the file."
                )
            archive = found[0]
        unpack(archive, folder)
    return find_class_root(folder)


def find_class_root(folder: Path) -> Path:
    """Return the first folder, from the top, that does not have exactly one sub-folder."""
    while len(inside := [path for path in folder.iterdir() if path.is_dir() and not is_system_file(path.name)]) == 1:
        folder = inside[0]
    return folder
