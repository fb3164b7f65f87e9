"""Named data sets that need no download, written out as class-named folders of images."""

from __future__ import annotations

from pathlib import Path

from components.downloads import cache_folder
from components.files import replacing_folder


def locate_digits() -> Path:
    """Return a folder with scikit-learn's 1797 handwritten digits as 8x8 PNG files in folders '0' to '9'."""
    folder = cache_folder() / "digits"
    if folder.is_dir():
        return folder
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with replacing_folder(folder) as partial:
        for number, (pixels, digit) in enumerate(zip(digits.images, digits.target)):
            (partial / str(digit)).mkdir(exist_ok=True)
            grey = (pixels * 255 / 16).astype("uint8")  # values run from 0 to 16
            Image.fromarray(grey).save(partial / str(digit) / f"{number:04d}.png")
    return folder
