import csv
import os

import pytest

from components.errors import DamagedFile
from components.storage.files import (
    PARTIAL,
    fingerprint_file,
    read_json,
    remove_partials,
    replacing_file,
    write_json,
    write_text,
)
from components.storage.tables import write_csv


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    write_text(path, "old")
    with pytest.raises(RuntimeError), replacing_file(path) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_writers_of_one_file_that_share_a_process_number_do_not_meet(tmp_path):
    path = tmp_path / "file"
    with replacing_file(path) as first:
        first.write_text("first")
        with replacing_file(path) as second:
            second.write_text("second")
        assert path.read_text() == "second" and first.read_text() == "first"
        remove_partials(tmp_path, path.name)  # finds what a killed one leaves under such a name
        assert list(tmp_path.iterdir()) == [path]
        first.write_text("first")
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_left_overs_of_a_killed_run_are_removed(tmp_path):
    (tmp_path / f"shard.123{PARTIAL}").touch()
    (tmp_path / f"folder{PARTIAL}").mkdir()
    (tmp_path / "shard").touch()
    remove_partials(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["shard"]


def test_csv_survives_separators_and_broken_names(tmp_path):
    write_csv(tmp_path / "t.csv", ["a", "b"], [['x,"y"', "line\nbreak"], ["\udcff", "ü"]])
    with (tmp_path / "t.csv").open(encoding="utf-8", newline="") as file:
        assert list(csv.reader(file)) == [["a", "b"], ['x,"y"', "line\nbreak"], ["\\udcff", "ü"]]


def test_json_comes_back_and_any_cut_or_missing_key_is_damage(tmp_path):
    path, value = tmp_path / "file.json", {"a": [1, 2.5, None], "b": {"ü": "\udcff"}}
    write_json(path, value)
    assert read_json(path, "a", "b") == value
    with pytest.raises(DamagedFile):
        read_json(path, "a", "c")
    healthy = path.read_bytes().rstrip()
    for content in (b"[]", b"null", b"\xff", *(healthy[:length] for length in range(len(healthy)))):
        path.write_bytes(content)
        with pytest.raises(DamagedFile, match="file.json"):
            read_json(path)


def test_the_fingerprint_of_a_file_or_folder_sees_what_changes(tmp_path):
    assert fingerprint_file(None) == ""
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    file = tmp_path / "folder" / "inner" / "file"
    seen = set()
    for content in ("one", "three"):
        file.write_text(content)
        seen |= {fingerprint_file(tmp_path / "folder"), fingerprint_file(file)}
        assert fingerprint_file(file) in seen
    os.utime(file, (0, 0))
    seen |= {fingerprint_file(tmp_path / "folder"), fingerprint_file(file)}
    (tmp_path / "folder" / "new").touch()
    seen.add(fingerprint_file(tmp_path / "folder"))
    assert len(seen) == 4  # a folder of one file has the fingerprint of that file
