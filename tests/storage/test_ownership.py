"""Files that Topgraft wrote are replaced and removed, and no others."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toys import refusal

from components.errors import UserError
from components.storage.ownership import MARK, claim_files, list_written, read_mark, remove_written, replacing_folder
from components.storage.places import list_files

NAMES = st.sampled_from(["a", "b", "c", "inner/a", "inner/b", "inner/deep/a"])


def fill(folder, names, content):
    """Write files of some content."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)


def replace(folder, names, content="new"):
    """Replace what was written to a folder."""
    with replacing_folder(folder) as partial:
        fill(partial, names, content)


def read(folder):
    """Return the content of all files but the mark by name."""
    return {name: (folder / name).read_text() for name in list_files(folder) if name != MARK}


@given(st.lists(st.sets(NAMES, min_size=1), min_size=1, max_size=3), st.sets(NAMES))
def test_a_folder_holds_what_was_written_last_and_what_others_put_beside_it(tmp_path_factory, writes, mine):
    folder = tmp_path_factory.mktemp("place") / "folder"
    for number, names in enumerate(writes):
        replace(folder, names - mine, str(number))
        fill(folder, mine, "mine")
    replace(folder, {"last"}, "last")
    assert read(folder) == {"last": "last", **dict.fromkeys(mine, "mine")}
    assert read_mark(folder) == {"last"}
    assert os.listdir(folder.parent) == ["folder"]


@given(st.sets(NAMES, min_size=1), st.sets(NAMES, min_size=1))
def test_a_file_of_another_is_never_overwritten(tmp_path_factory, names, mine):
    folder = tmp_path_factory.mktemp("place") / "folder"
    fill(folder, mine, "mine")
    if names & mine:
        assert "that Topgraft did not write" in refusal(replace, folder, names)
        assert str(folder / min(names & mine)) in refusal(claim_files, folder, names)
        assert read(folder) == dict.fromkeys(mine, "mine")
    else:
        replace(folder, names)
        claim_files(folder, names)
        assert read(folder) == {**dict.fromkeys(names, "new"), **dict.fromkeys(mine, "mine")}


def test_a_claimed_file_may_be_written_and_removed_and_others_stay(tmp_path):
    claim_files(tmp_path, ["a", "b"])
    fill(tmp_path, ["a"], "new")
    fill(tmp_path, ["mine"], "mine")
    assert list_written(tmp_path) == ["a"]
    claim_files(tmp_path, ["a", "c"])
    remove_written(tmp_path, keep=["c"])
    assert read_mark(tmp_path) == {"c"}
    remove_written(tmp_path)
    assert read(tmp_path) == {"mine": "mine"}
    assert os.listdir(tmp_path) == ["mine"]


def test_links_and_folders_of_others_stay(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    replace(tmp_path / "folder", ["a"])
    (tmp_path / "folder" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "folder" / "broken").symlink_to(tmp_path / "nowhere")
    replace(tmp_path / "folder", ["b"])
    assert set(os.listdir(tmp_path / "folder")) == {MARK, "b", "link", "broken"}


def test_a_folder_that_is_a_link_is_written_where_it_leads(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "folder").symlink_to(tmp_path / "disk")
    for name in ("a", "b"):
        replace(tmp_path / "folder", [name])
    assert (tmp_path / "folder").is_symlink()
    assert read(tmp_path / "disk") == {"b": "new"}


def test_a_failed_folder_leaves_the_old_folder_and_nothing_else(tmp_path):
    folder = tmp_path / "folder"
    replace(folder, ["old"])
    with pytest.raises(RuntimeError), replacing_folder(folder) as partial:
        (partial / "half").touch()
        raise RuntimeError
    assert read(folder) == {"old": "new"}
    assert os.listdir(tmp_path) == ["folder"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"file": []}'])
def test_a_damaged_mark_is_named(tmp_path, content):
    (tmp_path / MARK).write_text(content)
    assert str(tmp_path / MARK) in refusal(read_mark, tmp_path)


def test_a_mark_that_cannot_be_read_is_an_error(tmp_path):
    (tmp_path / MARK).mkdir()
    with pytest.raises(IsADirectoryError):
        claim_files(tmp_path, ["a"])


def test_remote_folders_keep_files_of_others(remote):
    for name in ("a", "b"):
        with replacing_folder(remote / "folder", name) as partial:
            (partial / name).write_text("new")
    (remote / "folder" / "mine").write_text("mine")
    with replacing_folder(remote / "folder", "c") as partial:
        (partial / "c").write_text("new")
    assert read(remote / "folder") == {"c": "new", "mine": "mine"}
    with pytest.raises(UserError, match="mine"), replacing_folder(remote / "folder", "mine") as partial:
        (partial / "mine").write_text("new")
    remove_written(remote / "folder")
    assert read(remote / "folder") == {"mine": "mine"}
