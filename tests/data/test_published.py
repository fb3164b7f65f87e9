import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from toys import paint_images, write_config

from components.data import published as datasets
from components.data.published import PUBLISHED_DATASETS, Published, find_class_root, locate_dataset
from components.errors import UserError
from components.storage.downloads import Remote
from components.storage.files import PARTIAL
from pipeline.cli import main


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TOPGRAFT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache" / "downloads").mkdir(parents=True)
    return tmp_path / "cache"


def publish(monkeypatch, name, file, inner=None):
    """Let a name stand for an archive that lies in the cache already and cannot be fetched."""
    monkeypatch.setitem(
        PUBLISHED_DATASETS, name, Published(Remote(f"http://127.0.0.1:9/{file}", file, None, None), inner)
    )


def test_digits_are_written_once_as_class_folders(cache, progress):
    folder = locate_dataset("digits", progress)
    assert folder.parent == cache
    files = sorted(folder.rglob("*.png"), key=lambda file: file.stem)
    assert [int(file.parent.name) for file in files] == load_digits().target.tolist()
    grey = (load_digits().images[7] * 255 / 16).astype(np.uint8)
    np.testing.assert_array_equal(np.asarray(Image.open(files[7])), grey)
    changed = files[0].stat().st_mtime_ns
    assert locate_dataset("digits", progress) == folder
    assert files[0].stat().st_mtime_ns == changed


# Two processes that begin at once, as soon as both are there, and read all of what they get.
AT_ONCE = """
import sys, time
from pathlib import Path
from toys import quiet_progress
from components.data import published as datasets
from sklearn.datasets import load_digits

here, other = map(Path, sys.argv[1:])
here.touch()
while not other.exists():
    time.sleep(0.001)
files = sorted(datasets.locate_dataset("digits", quiet_progress()).rglob("*.png"))
print(len(files), sum(len(file.read_bytes()) > 0 for file in files))
"""


def test_two_first_uses_at_once_both_get_the_whole_set(cache, tmp_path):
    (cache / f"digits{PARTIAL}" / "3").mkdir(parents=True)  # what a killed process left
    (cache / f"digits{PARTIAL}" / "3" / "x.png").touch()
    places = [str(tmp_path / name) for name in "ab"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(Path(__file__).parents[1])])}
    both = [
        subprocess.Popen(
            [sys.executable, "-c", AT_ONCE, *order], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for order in (places, places[::-1])
    ]
    outcomes = [process.communicate() for process in both]
    assert [(process.returncode, out) for process, (out, _) in zip(both, outcomes, strict=True)] == [
        (0, b"1797 1797\n")
    ] * 2, outcomes
    assert sorted(path.name for path in cache.iterdir()) == ["digits", "digits.lock", "downloads"]


def test_an_archive_is_unpacked_to_its_class_folders(cache, tmp_path, monkeypatch, progress):
    paint_images(tmp_path / "flower_photos", 3)
    with tarfile.open(cache / "downloads" / "flowers.tgz", "w:gz") as tar:
        tar.add(tmp_path / "flower_photos", "flower_photos")
    publish(monkeypatch, "flowers", "flowers.tgz")
    folder = locate_dataset("flowers", progress)
    assert sorted(path.name for path in folder.iterdir()) == ["cyan", "magenta", "yellow"]
    (cache / "downloads" / "flowers.tgz").unlink()
    assert locate_dataset("flowers", progress) == folder


def test_an_archive_inside_an_archive_is_unpacked_too(cache, tmp_path, monkeypatch, progress):
    paint_images(tmp_path / "images", 3)
    with tarfile.open(tmp_path / "inner.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "images", "categories")
    with zipfile.ZipFile(cache / "downloads" / "outer.zip", "w") as packed:
        packed.write(tmp_path / "inner.tar.gz", "set/inner.tar.gz")
        packed.writestr("set/readme.txt", "hello")
    publish(monkeypatch, "caltech101", "outer.zip", "inner.tar.gz")
    assert locate_dataset("caltech101", progress).name == "categories"
    publish(monkeypatch, "hugs", "outer.zip", "other.tar.gz")
    with pytest.raises(UserError, match=r"contains no other.tar.gz"):
        locate_dataset("hugs", progress)


def test_without_a_network_a_run_names_the_url_and_the_place(cache, monkeypatch, tmp_path, capsys):
    publish(monkeypatch, "caltech256", "c256.tar")
    monkeypatch.setattr("components.storage.downloads.FIRST_DELAY", 0)
    config = write_config(tmp_path / "c.yaml", name="c", data={"source": "caltech256"}, output_dir=str(tmp_path / "r"))
    assert main(["run", str(config)]) == 2
    error = capsys.readouterr().err
    assert "http://127.0.0.1:9/c256.tar" in error and str(cache / "downloads" / "c256.tar") in error
    assert not (tmp_path / "r").exists()


def test_every_name_of_the_config_is_a_data_set():
    from pipeline.config import Data

    for name in [*PUBLISHED_DATASETS, datasets.DIGITS]:
        assert Data(source=name).source == name


def test_the_class_root_is_below_lonely_folders(tmp_path):
    for name in ("a/b/cat", "a/b/dog", "__MACOSX"):
        (tmp_path / name).mkdir(parents=True)
    assert find_class_root(tmp_path) == tmp_path / "a" / "b"
