import hashlib
from pathlib import Path

import pytest
from toys import paint_images

from components.data.listing import list_images
from components.images.check import Limits
from components.ingest import isolated_reader
from components.ingest.isolated_reader import IsolatedReader
from components.rejects import FAILED, RejectedImage


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Nine images, three of which the poisoned child does not survive, each in its own way."""
    root = paint_images(tmp_path_factory.mktemp("data"), per_class=2)
    for name in ("hang", "killed", "raise"):
        (root / "cyan" / f"{name}.png").write_bytes((root / "cyan" / "phone" / "001.png").read_bytes())
    return list_images(str(root)).files


@pytest.fixture
def reader(request, monkeypatch):
    monkeypatch.setattr(isolated_reader, "CHILD", request.param)
    reader = IsolatedReader(Limits(), image_seconds=2)
    yield reader
    reader.close()


@pytest.mark.parametrize("reader", ["poisoned_child"], indirect=True)
def test_images_that_harm_the_child_are_rejected_and_the_others_read(reader, files):
    read = {file.key: image for file, image in zip(files, reader.read_batch(files), strict=True)}
    failed = {key: image.args for key, image in read.items() if isinstance(image, RejectedImage)}
    assert failed == {
        "cyan/hang.png": (FAILED, "not read and decoded within 2 seconds"),
        "cyan/killed.png": (FAILED, "the process that decoded it was killed by SIGKILL"),
        "cyan/raise.png": (FAILED, "MemoryError: no more"),
    }
    for file in files:
        if file.key not in failed:
            assert read[file.key].sha256 == hashlib.sha256(Path(file.path).read_bytes()).hexdigest()
    assert len(read) == 9
    child = reader._child
    assert child.poll() is None
    reader.close()
    assert child.poll() is not None


@pytest.mark.parametrize("reader", ["no_such_module"], indirect=True)
def test_a_child_that_does_not_start_is_an_error(reader, files):
    with pytest.raises(RuntimeError, match="ended with status 1"):
        reader.read_each(files[:1])
