import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from components.datasets import locate_digits
from components.downloads import cache_folder


def test_digits_are_written_once_as_class_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("TOPGRAFT_CACHE", str(tmp_path))
    folder = locate_digits()
    assert folder.parent == cache_folder() == tmp_path
    files = sorted(folder.rglob("*.png"), key=lambda file: file.stem)
    assert [int(file.parent.name) for file in files] == load_digits().target.tolist()
    np.testing.assert_array_equal(
        np.asarray(Image.open(files[7])), (load_digits().images[7] * 255 / 16).astype(np.uint8)
    )
    changed = files[0].stat().st_mtime_ns
    assert locate_digits() == folder
    assert files[0].stat().st_mtime_ns == changed
