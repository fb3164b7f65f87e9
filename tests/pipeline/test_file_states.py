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
    ("content", "damaged"), [("Content", {"file"}), ("conten", {"file", SHARD}), ("", {"file", SHARD})]
)
def test_a_shard_is_held_to_its_size_a_file_to_its_sum_and_what_is_unfinished_to_nothing(
    states, tmp_path, content, damaged
):
    for name in ("file", SHARD, "card"):
        (tmp_path / "folder" / name).write_text(content)
    found = compare_files(states, tmp_path)
    assert {file.name for file in found.damaged} == damaged
    assert found.missing == []


def test_what_is_missing_is_told_apart(states, tmp_path):
    for name in ("file", SHARD, "card"):
        (tmp_path / "folder" / name).unlink()
    found = compare_files(states, tmp_path)
    assert {file.name for file in found.missing} == {"file", SHARD, "card"}
    assert found.damaged == []
