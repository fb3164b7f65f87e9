from pathlib import Path

import pytest
from conftest import paint_images, shared_data
from hypothesis import given
from hypothesis import strategies as st

from components.errors import UserError
from components.images import list_images, natural_key, recognise_format


def test_lists_class_source_and_key_of_every_file(tmp_path):
    paint_images(tmp_path, per_class=3)
    listing = list_images(tmp_path)
    assert listing.labels == ["cyan", "magenta", "yellow"]
    assert {file.key for file in listing.files if file.text == "cyan"} == {
        "cyan/camera/000.jpg",
        "cyan/phone/001.png",
        "cyan/002.gif",
    }
    assert {file.source for file in listing.files} == {"camera", "phone", ""}


def test_classes_stand_in_natural_order(tmp_path):
    for name in ("10", "9", "b2", "b10", "a"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.png").touch()
    assert list_images(tmp_path).labels == ["9", "10", "a", "b2", "b10"]


@given(st.lists(st.text(), min_size=1))
def test_any_names_can_be_sorted(names):
    assert sorted(sorted(names, key=natural_key)) == sorted(names)


def test_what_systems_leave_behind_is_skipped_and_strays_are_told_apart(tmp_path):
    paint_images(tmp_path, per_class=1)
    for name in ("cyan/.DS_Store", "cyan/Thumbs.db", ".hidden", "LICENSE.txt"):
        (tmp_path / name).touch()
    listing = list_images(tmp_path)
    assert listing.strays == ["LICENSE.txt"]
    assert len(listing.files) == 3


def test_a_broken_link_and_a_link_to_a_folder_are_listed_as_files(tmp_path):
    paint_images(tmp_path, per_class=1)
    (tmp_path / "cyan" / "gone.jpg").symlink_to(tmp_path / "nowhere")
    (tmp_path / "cyan" / "loop").symlink_to(tmp_path / "cyan")
    keys = {file.key for file in list_images(tmp_path).files}
    assert {"cyan/gone.jpg", "cyan/loop"} <= keys
    assert len(keys) == 5


def test_the_fingerprint_sees_a_changed_file(tmp_path):
    paint_images(tmp_path, per_class=2)
    before = list_images(tmp_path).fingerprint()
    assert list_images(tmp_path).fingerprint() == before
    (tmp_path / "cyan" / "phone" / "001.png").write_bytes(b"other")
    assert list_images(tmp_path).fingerprint() != before


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda root: None, "no folder"),
        (lambda root: root.touch(), "is a file"),
        (lambda root: root.mkdir(), "no image in any sub-folder"),
        (
            lambda root: paint_images(root, 2) and [__import__("shutil").rmtree(root / c) for c in ("cyan", "yellow")],
            "single class",
        ),
    ],
)
def test_an_unusable_root_is_named(tmp_path, make, words):
    root = tmp_path / "data"
    make(root)
    with pytest.raises(UserError, match=words) as raised:
        list_images(root)
    assert str(root) in str(raised.value)


def test_formats_are_recognised_by_content(tmp_path):
    paint_images(tmp_path, per_class=4)
    for file in tmp_path.rglob("*.*"):
        expected = {"jpg": "jpeg"}.get(file.suffix[1:], file.suffix[1:])
        assert recognise_format(file.read_bytes()) == expected
    assert recognise_format(b"RIFF....WEBP") is None


def test_caltech_101_is_found_whole():
    listing = list_images(Path(shared_data("caltech101")))
    assert (len(listing.files), len(listing.labels), listing.strays) == (9145, 102, [])
