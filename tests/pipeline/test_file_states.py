import os
import shutil

import pytest

from components.storage.ownership import claim_files
from pipeline.file_states import Differences, compare_files, examine_files

SHARD = "train-00000-of-00001.tfrecord"


@pytest.fixture
def states(tmp_path):
    claim_files(tmp_path / "folder", ["file", SHARD, "card"])
    for name in ("file", SHARD, "card", "of another"):
        (tmp_path / "folder" / name).write_text("content")
    return examine_files([tmp_path / "folder"], tmp_path, ["card"])


def test_files_of_others_have_no_state(states):
    assert states.keys() == {"folder/file", f"folder/{SHARD}", "folder/card"}


def test_nothing_is_found_where_nothing_changed(states, tmp_path):
    (tmp_path / "folder" / "new").touch()
    assert compare_files(states, tmp_path) == Differences([], [])


@pytest.mark.parametrize(
    ("content", "changed"), [("content", {"file"}), ("conten", {"file", SHARD}), ("", {"file", SHARD})]
)
def test_a_shard_is_held_to_its_size_a_file_also_to_its_time_and_what_is_unfinished_to_nothing(
    states, tmp_path, content, changed
):
    for name in ("file", SHARD, "card"):
        (tmp_path / "folder" / name).write_text(content)
        os.utime(tmp_path / "folder" / name, ns=(0, 1))
    found = compare_files(states, tmp_path)
    assert {file.name for file in found.changed} == changed
    assert found.missing == []


def test_a_copy_that_keeps_times_is_as_the_original(states, tmp_path):
    shutil.copytree(tmp_path / "folder", tmp_path / "copy" / "folder")
    assert compare_files(states, tmp_path / "copy") == Differences([], [])


def test_what_is_missing_is_told_apart(states, tmp_path):
    for name in ("file", SHARD, "card"):
        (tmp_path / "folder" / name).unlink()
    found = compare_files(states, tmp_path)
    assert {file.name for file in found.missing} == {"file", SHARD, "card"}
    assert found.changed == []
