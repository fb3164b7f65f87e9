import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.data.image_file import ImageFile
from components.data.image_list import ImageList
from components.errors import DamagedFile
from components.images.formats import Limits
from components.rejects import UNREADABLE
from components.shards import index as file_index
from components.shards.facts import Facts
from components.shards.index import Row, read_index, read_known, write_index
from components.shards.names import Shard, index_name
from components.shards.spans import hash_key
from components.storage.ownership import claim_files

SUM = "0a" * 32


def image(key, modified_ns=7):
    return ImageFile(key, f"/data/{key}", "a", "", "", "", 5, modified_ns)


def find_known(folder, files, spans):
    """Return the facts and the place of each file."""
    positions = np.array([hash_key(file.key) for file in files])
    facts, places = read_known(folder, ImageList.collect(files), positions, spans, Limits())
    return [(facts[row], int(place)) for row, place in enumerate(places)]


text = st.text(st.characters(codec=None), max_size=20)
files = st.builds(
    ImageFile, text, text, text, text, text, st.sampled_from(["", "train"]), st.integers(0), st.integers(0)
)
facts = st.none() | st.builds(
    Facts, text, text, text, text, st.integers(0), st.integers(0), st.integers(1, 8), st.integers(0, 1)
)


@given(st.lists(st.builds(Row, files, facts, st.sampled_from(["", "val"]), st.integers(0))))
def test_what_is_written_is_read(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("index") / "files.json"
    write_index(path, rows, Limits(), [1, 2, 3])
    assert read_index(path, Limits()) == (rows, [1, 2, 3])


def test_a_name_that_is_no_text_survives(tmp_path):
    row = Row(image(os.fsdecode(b"a/\xff\n.jpg")), Facts("", ""), "val", 1)
    write_index(tmp_path / "i", [row], Limits(), [])
    assert read_index(tmp_path / "i", Limits())[0] == [row]


def test_a_missing_index_a_damaged_one_and_one_that_cannot_be_read_are_three_things(tmp_path):
    write_index(tmp_path / "good", [Row(image("a"), Facts("", "", SUM))], Limits(), [1])
    (tmp_path / "cut").write_bytes((tmp_path / "good").read_bytes()[:40])
    (tmp_path / "other").write_text('{"limits": null}')
    assert read_index(tmp_path / "good", Limits(max_pixels=5)) == ([Row(image("a"))], [])
    for name in ("cut", "other"):
        with pytest.raises(DamagedFile, match=name):
            read_index(tmp_path / name, Limits())
    with pytest.raises(FileNotFoundError):
        read_index(tmp_path / "none", Limits())
    with pytest.raises(IsADirectoryError):
        read_index(tmp_path, Limits())


def test_facts_read_by_earlier_rules_are_read_again(tmp_path, monkeypatch):
    row = Row(image("a"), Facts("", "", SUM, "jpeg", 5, 5), "val", 1)
    claim_files(tmp_path, [index_name(Shard(0, 1))])
    monkeypatch.setattr(file_index, "_limits", lambda limits: iter((limits.max_bytes, limits.max_pixels)))
    write_index(tmp_path / index_name(Shard(0, 1)), [row], Limits(), [1, 2, 3])
    monkeypatch.undo()
    assert read_index(tmp_path / index_name(Shard(0, 1)), Limits()) == ([row._replace(facts=None)], [])
    assert find_known(tmp_path, [row.file], [1]) == [(None, 0)]


def test_facts_are_known_by_what_tells_a_file_from_itself_after_a_change(tmp_path):
    known, unread, untimed = (
        Row(image("a/1"), Facts("", "", SUM)),
        Row(image("a/2")),
        Row(image("a/3", 0), Facts("", "", SUM)),
    )
    claim_files(tmp_path, [index_name(Shard(0, 1))])
    write_index(tmp_path / index_name(Shard(0, 1)), [known, unread, untimed], Limits(), [])
    files = [row.file for row in (known, unread, untimed)]
    changed = [known.file._replace(**{what: 9}) for what in ("size", "modified_ns", "offset")]
    assert find_known(tmp_path, [*files, image("b")], []) == [
        (known.facts, -1),
        (None, -1),
        (None, -1),
        (None, -1),
    ]
    for file in changed:
        assert find_known(tmp_path, [file], [1]) == [(None, 0)]


def test_a_file_that_could_not_be_read_is_read_again(tmp_path):
    row = Row(image("a"), Facts(UNREADABLE, "input/output error"))
    claim_files(tmp_path, [index_name(Shard(0, 1))])
    write_index(tmp_path / index_name(Shard(0, 1)), [row], Limits(), [])
    assert find_known(tmp_path, [row.file], [1]) == [(None, 0)]


def test_an_index_that_no_run_wrote_tells_nothing(tmp_path):
    row = Row(image("a"), Facts("", "", SUM))
    write_index(tmp_path / index_name(Shard(0, 1)), [row], Limits(), [])
    assert find_known(tmp_path, [row.file], [1]) == [(None, -1)]
