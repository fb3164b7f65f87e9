import os

from hypothesis import given
from hypothesis import strategies as st

from components.features import Shard, index_name, shard_name
from components.file_index import Facts, Known, Row, read_index, read_known, remove_other_shards, write_index
from components.image_headers import Limits
from components.listing import ImageFile


def image(key, modified_ns=7):
    return ImageFile(key, f"/data/{key}", "a", "", "", "", 5, modified_ns)


text = st.text(st.characters(codec=None), max_size=20)
files = st.builds(
    ImageFile, text, text, text, text, text, st.sampled_from(["", "train"]), st.integers(0), st.integers(0)
)
facts = st.none() | st.builds(Facts, text, text, text, text, st.integers(0), st.integers(0), st.integers(1, 8))


@given(st.lists(st.builds(Row, files, facts, st.sampled_from(["", "val"]), st.integers(0))))
def test_what_is_written_is_read(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("index") / "files.json"
    write_index(path, rows, Limits(), [1, 2, 3])
    assert read_index(path, Limits()) == (rows, [1, 2, 3])


def test_a_name_that_is_no_text_survives(tmp_path):
    row = Row(image(os.fsdecode(b"a/\xff\n.jpg")), Facts("", ""), "val", 1)
    write_index(tmp_path / "i", [row], Limits(), [])
    assert read_index(tmp_path / "i", Limits())[0] == [row]


def test_an_index_that_is_missing_or_damaged_knows_nothing_and_one_of_other_limits_only_what_lies_there(tmp_path):
    write_index(tmp_path / "good", [Row(image("a"), Facts("", "", "sum"))], Limits(), [1])
    (tmp_path / "cut").write_bytes((tmp_path / "good").read_bytes()[:40])
    (tmp_path / "other").write_text('{"limits": null}')
    assert read_index(tmp_path / "good", Limits(max_pixels=5)) == ([Row(image("a"))], [])
    for name in ("cut", "other", "none"):
        assert read_index(tmp_path / name, Limits()) == ([], [])


def test_facts_are_known_by_what_tells_a_file_from_itself_after_a_change(tmp_path):
    known, unread, untimed = (
        Row(image("a/1"), Facts("", "", "sum")),
        Row(image("a/2")),
        Row(image("a/3", 0), Facts("", "", "sum")),
    )
    write_index(tmp_path / index_name(Shard(0, 1)), [known, unread, untimed], Limits(), [])
    files = [row.file for row in (known, unread, untimed)]
    changed = [known.file._replace(**{what: 9}) for what in ("size", "modified_ns", "offset")]
    assert read_known(tmp_path, [*files, image("b")], [], Limits()) == [Known(known.facts), Known(), Known(), Known()]
    for file in changed:
        assert read_known(tmp_path, [file], [1], Limits()) == [Known(None, Shard(0, 1))]


def test_shards_and_indexes_of_other_numbers_are_removed(tmp_path):
    keep = [shard_name("val", Shard(1, 2)), index_name(Shard(0, 2)), "labels.txt"]
    for name in [*keep, shard_name("val", Shard(1, 4)), index_name(Shard(3, 4))]:
        (tmp_path / name).touch()
    remove_other_shards(tmp_path, [2])
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(keep)
