import csv
import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from toys import paint_images, refusal

from components.data.class_names import read_labels_file
from components.data.listing import list_images
from components.images.check import Limits, read_file
from components.predict.inputs import find_inputs
from components.storage import ownership
from components.storage.files import PARTIAL, fingerprint_file, remove_partials, replacing_file, write_text
from components.storage.ownership import MARK, replacing_folder, replacing_shared_folder
from components.storage.places import (
    as_path,
    is_remote,
    list_files,
    local_copy,
    move_file,
    read_status,
    remove,
    upload,
    walk_objects,
)
from components.storage.tables import write_csv


def contents(folder):
    return {name: (folder / name).read_bytes() for name in list_files(folder)}


@pytest.fixture
def tree(tmp_path):
    """Files with names that patterns and addresses would trip over."""
    folder = tmp_path / "tree"
    for name in ("a.txt", "b/[1]*?.txt", "b/c/größe 100%#.txt", "b/empty"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("" if name.endswith("empty") else name)
    return folder


def test_only_a_remote_place_is_a_remote_path():
    assert type(as_path("gs:/bucket/x")) is type(as_path("x")) is type(Path())
    assert not is_remote("gs:/bucket/x") and is_remote("gs://bucket/x")
    assert str(as_path("gs://bucket/x") / "y" / "z.txt") == "gs://bucket/x/y/z.txt"
    assert as_path("gs://bucket/x/y").is_relative_to(as_path("gs://bucket/x"))
    assert pickle.loads(pickle.dumps(as_path("gs://bucket/x"))) == as_path("gs://bucket/x")


def test_a_folder_comes_back_as_it_went_and_goes_as_if_it_had_never_been(tree, remote):
    upload(tree, remote)
    assert list(list_files(remote)) == list(list_files(tree))
    assert [size for size, _ in list_files(remote).values()] == [size for size, _ in list_files(tree).values()]
    with local_copy(remote) as copy:
        assert contents(copy) == contents(tree)
    with local_copy(remote / "b" / "[1]*?.txt") as copy:
        assert copy.read_text() == "b/[1]*?.txt"
    assert not copy.exists()
    assert [name for name, _ in walk_objects(remote, nested=False)] == ["a.txt"]
    remove(remote / "b")
    assert list(list_files(remote)) == ["a.txt"]
    remove(remote / "a.txt")
    remove(remote / "never")
    assert list_files(remote) == {}


def test_a_listing_of_many_pages_has_them_all(remote, monkeypatch):
    for number in range(5):
        (remote / f"{number}").write_text("")
    call = remote.fs.call
    asked = []

    def in_pages(*arguments, **query):  # as the service does, but the emulator does not
        asked.append(query["pageToken"])
        page = call(*arguments, **{**query, "pageToken": None})
        start = int(query["pageToken"] or 0)
        more = {"nextPageToken": str(start + 2)} if start + 2 < len(page["items"]) else {}
        return {"items": page["items"][start : start + 2], **more}

    monkeypatch.setattr(remote.fs, "call", in_pages)
    assert list(list_files(remote)) == list("01234")
    assert asked == [None, "2", "4"]


def test_every_write_of_an_object_shows(remote):
    seen = set()
    for _ in range(3):
        (remote / "x").write_text("same")
        seen |= {read_status(remote / "x"), list_files(remote)["x"]}
    assert len(seen) == 3
    seen = set()
    for name in ("x", "x", "y"):
        (remote / name).write_text("same")
        seen.add(fingerprint_file(remote))
        assert fingerprint_file(remote) in seen
    assert len(seen) == 3 and fingerprint_file(remote / "none") == fingerprint_file(remote.parent / "none" / "none")


def test_a_remote_file_is_replaced_or_left(remote):
    write_text(remote / "deep" / "file", "old\n")
    with pytest.raises(RuntimeError), replacing_file(remote / "deep" / "file") as partial:
        partial.write_text("half")
        raise RuntimeError
    assert (remote / "deep" / "file").read_text() == "old\n" and list(list_files(remote)) == ["deep/file"]
    write_csv(remote / "t.csv", ["a"], [["line\nbreak"], ["\udcff"]])
    with (remote / "t.csv").open(encoding="utf-8", newline="") as file:
        assert list(csv.reader(file)) == [["a"], ["line\nbreak"], ["\\udcff"]]


@pytest.mark.parametrize("replacing", [replacing_folder, replacing_shared_folder])
def test_a_remote_folder_is_replaced_or_left(remote, replacing):
    for content in ("one", "two"):
        with replacing(remote / "folder") as partial:
            (partial / content).write_text(content)
    with pytest.raises(RuntimeError), replacing(remote / "folder") as partial:
        (partial / "half").write_text("half")
        raise RuntimeError
    found = contents(remote)
    assert json.loads(found.pop(f"folder/{MARK}"))["files"] == ["two"]
    assert found == {"folder/two": b"two"}


@pytest.mark.parametrize("moved", [0, 1, 2])
def test_a_move_that_is_refused_half_way_leaves_a_folder_that_the_next_attempt_replaces(remote, monkeypatch, moved):
    moves = iter([ownership.move_file] * moved)

    def refuse(source, target):
        if not next(moves, None):
            raise PermissionError("refused")
        move_file(source, target)

    monkeypatch.setattr(ownership, "move_file", refuse)
    with pytest.raises(PermissionError), replacing_shared_folder(remote / "folder") as partial:
        for name in "abc":
            (partial / name).write_text("first")
    monkeypatch.undo()
    with replacing_shared_folder(remote / "folder") as partial:
        (partial / "c").write_text("second")
    found = contents(remote)
    assert json.loads(found.pop(f"folder/{MARK}"))["files"] == ["c"]
    assert found == {"folder/c": b"second"}


def test_the_file_that_tells_that_a_folder_is_whole_comes_last(remote):
    with replacing_folder(remote / "folder", "b") as partial:
        for name in "abc":
            (partial / name).write_text(name)
    files = list_files(remote / "folder")
    assert max(files, key=lambda name: files[name].changed) == "b"


def test_what_workers_are_to_write_to_lies_where_they_reach_it(remote):
    with replacing_shared_folder(remote / "folder") as partial:
        assert is_remote(partial)
        killed = as_path(str(partial))  # as a killed run leaves it
        (killed / "x").write_text("x")
        assert list(list_files(remote)) == [f"folder{PARTIAL}/x"]
        remove_partials(remote)
        assert list_files(remote) == {}


def test_a_remote_data_set_is_listed_as_its_local_copy(tmp_path, remote):
    images = paint_images(tmp_path / "images", per_class=4)
    for name in ("cyan/.hidden.jpg", ".git/x.jpg", "magenta/Thumbs.db", "stray.jpg"):
        (images / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(images / "cyan" / "camera" / "000.jpg", images / name)
    upload(images, remote / "images")
    local, listed = list_images(images, ["*.gif"]), list_images(str(remote / "images"), ["*.gif"])
    assert [file._replace(path="", modified_ns=0) for file in local.files] == [
        file._replace(path="", modified_ns=0) for file in listed.files
    ]
    assert listed[1:] == local[1:]
    assert all(file.path == f"{remote}/images/{file.key}" and file.modified_ns for file in listed.files)
    assert list_images(str(remote / "images"), ["*.gif"]) == listed
    assert list(find_inputs([remote / "images" / "cyan"])) == [
        f"{remote}/images/{file.key}" for file in list_images(str(remote / "images")).files if file.text == "cyan"
    ]
    matched = [f"{remote}/images/{colour}/camera/000.jpg" for colour in ("cyan", "magenta", "yellow")]
    assert list(find_inputs([remote / "images" / "*" / "camera" / "*.jpg"])) == matched


def test_remote_names_may_hold_any_characters(tmp_path, remote):
    root = remote / "o [v2] {b}"
    names = ["a [1] *?/x [0] #%C3 é~.jpg", "b {c,d}/1 + 2 & 3.jpg", "b {c,d}/[x].jpg"]
    for name in (*names, "b {c,d}/@eaDir/1.jpg/SYNO.jpg", "Thumbs.DB"):
        (root / name).write_bytes(name.encode())
    listing = list_images(str(root))
    assert [file.key for file in listing.files] == names and listing.rejects == []
    for file in listing.files:
        assert read_file(file.path, Limits()).decode() == file.key
    write_csv(root / "list [1].csv", ("path", "label"), [(f" {name}", name[0]) for name in names])
    files = list_images(str(root / "list [1].csv")).files
    assert [(file.key, file.size) for file in files] == [(name, len(name.encode())) for name in names]
    assert list(find_inputs([root / "b {c,d}", root / "a [1] *?" / "*.jpg"])) == [
        f"{root}/{name}" for name in (*names[1:], names[0])
    ]


def test_a_remote_manifest_leads_to_images_wherever_they_lie(tmp_path, remote):
    (remote / "images" / "1.jpg").write_bytes(b"1")
    (remote / "2.jpg").write_bytes(b"22")
    rows = [("images/1.jpg", "a"), (f"{remote}/2.jpg", "b"), ("../none.jpg", "b"), (str(tmp_path / "3.jpg"), "b")]
    (tmp_path / "3.jpg").write_bytes(b"333")
    write_csv(remote / "list.csv", ("path", "label"), rows)
    files = {file.key: file for file in list_images(str(remote / "list.csv")).files}
    assert {key: (file.path, file.size) for key, file in files.items()} == {
        "images/1.jpg": (f"{remote}/images/1.jpg", 1),
        f"{remote}/2.jpg": (f"{remote}/2.jpg", 2),
        f"{remote.parent}/none.jpg": (f"{remote.parent}/none.jpg", 0),
        str(tmp_path / "3.jpg"): (str(tmp_path / "3.jpg"), 3),
    }
    assert files["images/1.jpg"].modified_ns and files[f"{remote}/2.jpg"].modified_ns


def test_labels_are_read_from_either_place(tmp_path, remote):
    (remote / "labels.txt").write_text("b\na\n")
    assert read_labels_file(str(remote / "labels.txt")) == ["b", "a"]
    assert "no such file or folder" in refusal(read_labels_file, str(remote / "none.txt"))


def test_what_is_not_there_is_named(remote):
    assert str(remote) in refusal(list_images, str(remote))
    assert "gs://no_bucket/x" in refusal(list_images, "gs://no_bucket/x")
    assert f"{remote}/list.csv" in refusal(list_images, str(remote / "list.csv"))
    assert str(remote) in refusal(lambda: list(find_inputs([remote])))


def test_local_runs_load_none_of_it():
    code = "import sys, pipeline.cli, components.data.listing, json; json.dump(sorted(sys.modules), sys.stdout)"
    loaded = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    assert not {"upath", "fsspec", "gcsfs"} & set(loaded)
