"""Data sets by name: a built-in one, and published ones that are fetched on first use."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from components.errors import UserError
from components.storage.archives import unpack
from components.storage.downloads import Remote, cache_folder, fetch
from components.storage.files import locked
from components.storage.ownership import replacing_folder
from components.terminal.progress import Progress


@dataclass(frozen=True)
class Published:
    """A data set's archive; inner is the archive inside that holds the images, where they are packed twice."""

    remote: Remote
    inner: str | None = None


CALTECH = "https://data.caltech.edu/records"
# Sizes and sums: the checksums of TensorFlow Datasets. Where none are published, the sum of the first use is recorded.
PUBLISHED = {
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
    """Return the folder of class folders of a named data set, made or fetched into the cache on first use."""
    return _make_digits() if name == DIGITS else _fetch_dataset(name, progress)


def _make_digits() -> Path:
    """Write scikit-learn's 1797 handwritten digits as 8x8 PNG files into folders '0' to '9'."""
    folder = cache_folder() / DIGITS
    if folder.is_dir():
        return folder
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    with locked(folder):  # of two first runs at once, one writes
        if folder.is_dir():
            return folder
        with replacing_folder(folder) as partial:
            for number, (pixels, digit) in enumerate(zip(digits.images, digits.target, strict=True)):
                (partial / str(digit)).mkdir(exist_ok=True)
                grey = (pixels * 255 / 16).astype("uint8")  # values run from 0 to 16
                Image.fromarray(grey).save(partial / str(digit) / f"{number:04d}.png")
    return folder


def _fetch_dataset(name: str, progress: Progress) -> Path:
    published, folder = PUBLISHED[name], cache_folder() / "datasets" / name
    if not folder.is_dir():
        archive = fetch(published.remote, progress.report_bytes)
        if published.inner:
            outer = unpack(archive, folder.with_name(f"{name}-archive"))
            found = sorted(outer.rglob(published.inner))
            if not found:
                raise UserError(f"'{archive}' holds no {published.inner}: expected {name} as published; delete it.")
            archive = found[0]
        unpack(archive, folder)
    return find_class_root(folder)


def find_class_root(folder: Path) -> Path:
    """Return the first folder, from the top, that has two or more sub-folders."""
    while True:
        inside = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(("__", "."))]
        if len(inside) != 1:
            return folder
        folder = inside[0]
