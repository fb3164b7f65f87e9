import os
from pathlib import Path

import pytest
from toys import refusal

from components.predict.inputs import find_inputs
from components.storage.files import PARTIAL


@pytest.fixture
def tree(tmp_path, monkeypatch):
    names = (
        "a.jpg",
        "b/1.jpg",
        "b/10.jpg",
        "b/2/x.jpg",
        "b/2.jpg",
        "b/.hidden",
        "b/Thumbs.db",
        "b/.cache/x.jpg",
        "c.png",
    )
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


BELOW_B = ["b/1.jpg", "b/10.jpg", "b/2/x.jpg", "b/2.jpg"]


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["c.png", "b", "a.jpg"], ["c.png", *BELOW_B, "a.jpg"]),
        (["a.jpg", "a.jpg"], ["a.jpg", "a.jpg"]),
        (["*.jpg", "c.*"], ["a.jpg", "c.png"]),
        (["*"], ["a.jpg", *BELOW_B, "c.png"]),
        (["b/**"], BELOW_B),
        (["**/[12]*.jpg"], ["b/1.jpg", "b/10.jpg", "b/2.jpg"]),
        (["b/*"], BELOW_B),
    ],
)
def test_files_folders_and_globs_are_found_in_order_each_once(tree, paths, expected):
    assert list(find_inputs([Path(path) for path in paths])) == expected


def test_brackets_in_a_name_that_exists_are_no_pattern(tree):
    (tree / "b[1]").mkdir()
    (tree / "b[1]" / "x.jpg").touch()
    assert list(find_inputs([Path("b[1]")])) == ["b[1]/x.jpg"]


def test_the_output_and_what_is_half_written_are_not_taken_for_images(tree):
    (tree / "b" / f"0.html.7{PARTIAL}").touch()
    (tree / "b" / "out.html").touch()
    assert list(find_inputs([Path("b")], tree / "b" / "out.html")) == BELOW_B


def test_links_to_folders_are_followed_once(tree):
    os.symlink(tree / "b", tree / "d")
    os.symlink(tree / "b", tree / "b" / "loop")
    assert list(find_inputs([Path("d")])) == ["d/1.jpg", "d/10.jpg", "d/2/x.jpg", "d/2.jpg", "d/loop"]


def test_folders_are_walked_as_files_are_asked_for(tree):
    files = find_inputs([Path("a.jpg"), Path("b")])
    (tree / "b" / "3.jpg").touch()
    assert list(files) == ["a.jpg", *BELOW_B, "b/3.jpg"]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("nowhere.jpg", "There is no file or folder 'nowhere.jpg'"),
        ("b/*.gif", "There is no match for 'b/*.gif'"),
        ("empty", "There is no image in 'empty'"),
    ],
)
def test_what_names_no_file_is_refused_at_once(tree, path, words):
    (tree / "empty").mkdir()
    assert words in refusal(find_inputs, [Path(path)])


def test_a_later_path_that_is_missing_is_refused_before_the_first_file(tree):
    assert "nowhere" in refusal(find_inputs, [Path("b"), Path("nowhere")])
