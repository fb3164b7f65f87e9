import bz2
import gzip
import io
import os
import random
import stat
import struct
import tarfile
import tempfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import refusal

from components.storage import archives
from components.storage.archives import unpack
from components.storage.files import PARTIAL
from components.storage.ownership import MARK

CONTENT = random.Random(0).randbytes(300_000)


def names(folder: Path) -> set[str]:
    """Return what lies in a folder, less the locks."""
    return {path.name for path in folder.iterdir() if path.suffix != ".lock"}


def tar_bytes(files: dict[str, bytes], mode: str = "w") -> bytes:
    """Pack files into a tar archive."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=mode) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o6777
            tar.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def zip_bytes(files: dict[str, bytes]) -> bytes:
    """Pack files into a zip archive."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return packed.getvalue()


def read_tree(folder: Path) -> dict[str, bytes]:
    """Return the content of all files but the mark by their path."""
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: content for name, content in files.items() if name != MARK}


FILES = {
    "flowers/daisy/1.jpg": CONTENT[:5000],
    "flowers/rose/2.jpg": b"rose" * 512,
    "flowers/empty": b"",
    "notes": b"n",
}
PACKERS = {
    "tar": tar_bytes,
    "tgz": lambda files: tar_bytes(files, "w:gz"),
    "tar.bz2": lambda files: tar_bytes(files, "w:bz2"),
    "zip": zip_bytes,
}


def put(tmp_path: Path, content: bytes) -> Path:
    """Write an archive under a name that tells nothing."""
    archive = tmp_path / "archive"
    archive.write_bytes(content)
    return archive


@pytest.mark.parametrize("kind", PACKERS)
def test_an_archive_is_recognised_by_content_and_unpacked_as_plain_files(tmp_path, kind):
    folder = unpack(put(tmp_path, PACKERS[kind](FILES)), tmp_path / "deep" / "folder")
    assert folder == tmp_path / "deep" / "folder"
    assert read_tree(folder) == FILES
    assert not any(path.stat().st_mode & 0o7133 for path in folder.rglob("*") if path.is_file())
    assert names(folder.parent) == {"folder"}


def test_a_tar_that_begins_with_the_letters_of_a_zip_is_a_tar(tmp_path):
    assert read_tree(unpack(put(tmp_path, tar_bytes({"PK": b"k"})), tmp_path / "folder")) == {"PK": b"k"}


def test_a_tar_that_ends_in_a_zip_is_a_tar(tmp_path):
    inner = {"inner.zip": zip_bytes({"x": b"x"})}
    assert read_tree(unpack(put(tmp_path, tar_bytes(inner)), tmp_path / "folder")) == inner


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_members_that_are_folders_are_made(tmp_path, kind):
    packed = io.BytesIO()
    if kind == "tar":
        with tarfile.open(fileobj=packed, mode="w") as tar:
            for name in (".", "./a", "./a/b"):
                member = tarfile.TarInfo(name)
                member.type, member.mode = tarfile.DIRTYPE, 0
                tar.addfile(member)
    else:
        with zipfile.ZipFile(packed, "w") as archive:
            archive.writestr("a/b/", b"")
    folder = unpack(put(tmp_path, packed.getvalue()), tmp_path / "folder")
    assert (folder / "a" / "b").is_dir()
    assert os.access(folder / "a", os.W_OK)


def test_an_existing_folder_is_returned_as_it_is(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    assert unpack(tmp_path / "no such archive", folder) == folder
    assert list(folder.iterdir()) == []


def test_what_a_killed_run_left_is_removed(tmp_path):
    (tmp_path / f"folder{PARTIAL}").mkdir()
    (tmp_path / f"folder{PARTIAL}" / "left over").touch()
    assert read_tree(unpack(put(tmp_path, tar_bytes(FILES)), tmp_path / "folder")) == FILES


UNSAFE = ["/absolute", "../up", "in/../../up", "in\\out", "..\\up", "C:drive", "c:/drive", "//host/share/x"]


@pytest.mark.parametrize("name", UNSAFE)
@pytest.mark.parametrize("kind", ["tgz", "zip"])
def test_a_member_that_leads_out_of_the_folder_is_refused(tmp_path, kind, name):
    archive = put(tmp_path, PACKERS[kind]({"good": b"good", name: b"bad"}))
    assert repr(name) in refusal(unpack, archive, tmp_path / "folder")
    assert names(tmp_path) == {"archive"}


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, b"Z"]
)
def test_a_tar_member_that_is_no_file_or_folder_is_refused(tmp_path, kind):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("good"))
        member = tarfile.TarInfo("bad")
        member.type, member.linkname = kind, "good"
        tar.addfile(member)
    assert "'bad'" in refusal(unpack, put(tmp_path, packed.getvalue()), tmp_path / "folder")
    assert names(tmp_path) == {"archive"}


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK])
def test_a_zip_member_that_is_no_file_or_folder_is_refused(tmp_path, kind):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("good", b"good")
        member = zipfile.ZipInfo("bad")
        member.external_attr = (kind | 0o777) << 16
        archive.writestr(member, b"/etc")
    assert "'bad'" in refusal(unpack, put(tmp_path, packed.getvalue()), tmp_path / "folder")
    assert names(tmp_path) == {"archive"}


def test_a_name_with_a_line_break_keeps_the_message_one_line(tmp_path):
    assert "x\\n" in refusal(unpack, put(tmp_path, tar_bytes({"/x\ny": b""})), tmp_path / "folder")


@pytest.mark.parametrize("kind", PACKERS)
def test_unpacking_stops_at_the_allowed_size(tmp_path, kind):
    archive = put(tmp_path, PACKERS[kind]({"a": bytes(50_000), "b": bytes(50_000)}))
    assert "99999 bytes" in refusal(unpack, archive, tmp_path / "folder", 99_999)
    assert names(tmp_path) == {"archive"}
    assert unpack(archive, tmp_path / "folder", 100_000).is_dir()


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
def test_a_tar_header_of_megabytes_is_refused_before_it_is_in_memory(tmp_path, kind):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        header = tarfile.TarInfo("header")
        header.type, header.size = kind, 64 * 2**20  # tarfile takes as much as the header says, if it is gigabytes
        tar.addfile(header, io.BytesIO(bytes(header.size)))
        tar.addfile(tarfile.TarInfo("a"))
    assert "its headers are larger" in refusal(unpack, put(tmp_path, packed.getvalue()), tmp_path / "folder")


def test_a_tar_with_an_endless_map_of_holes_is_refused(tmp_path):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo("a")
        member.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "1"}
        content = b"9999999\n" + b"0\n" * 2**22
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    assert "its headers are larger" in refusal(unpack, put(tmp_path, packed.getvalue()), tmp_path / "folder")


@pytest.mark.parametrize("kind", PACKERS)
def test_members_and_the_depth_of_folders_are_limited(tmp_path, kind, monkeypatch):
    deep = put(tmp_path, PACKERS[kind]({"a/" * 64 + "b": b""}))
    assert "a/a/a" in refusal(unpack, deep, tmp_path / "folder")
    monkeypatch.setattr(archives, "MAX_MEMBERS", 3)
    assert "more than the 3 files" in refusal(unpack, put(tmp_path, PACKERS[kind](FILES)), tmp_path / "folder")
    assert names(tmp_path) == {"archive"}


def test_sizes_in_headers_are_not_trusted(tmp_path):
    content = zip_bytes({"a": bytes(50_000)})
    lied = content.replace(struct.pack("<I", 50_000), struct.pack("<I", 10))
    assert lied != content
    refusal(unpack, put(tmp_path, lied), tmp_path / "folder", 20)
    assert names(tmp_path) == {"archive"}


@pytest.mark.parametrize("kind", PACKERS)
def test_a_cut_archive_is_refused_wherever_it_was_cut(tmp_path, kind):
    content = PACKERS[kind](FILES)
    # A plain tar ends in zeros: the first block of them tells that it is whole.
    needed = len(content.rstrip(b"\0")) // 512 * 512 + 512 if kind == "tar" else len(content)
    for cut in sorted({0, 1, 5, 20, 511, 512, 513, 1024, 5632, needed // 2, needed - 512, needed - 8, needed - 1}):
        if cut >= needed:
            continue
        archive = put(tmp_path, content[:cut])
        assert str(archive) in refusal(unpack, archive, tmp_path / "folder"), cut
        assert names(tmp_path) == {"archive"}


@pytest.mark.parametrize("kind", PACKERS)
def test_a_damaged_archive_is_refused(tmp_path, kind):
    content = bytearray(PACKERS[kind]({"a": CONTENT[:5000], "b": CONTENT[5000:9000]}))
    # In the plain tar the header of 'b': no sum guards the files themselves there.
    at = 512 + 5120 + 3 if kind == "tar" else len(content) // 3
    content[at] ^= 0xFF
    archive = put(tmp_path, bytes(content))
    assert str(archive) in refusal(unpack, archive, tmp_path / "folder")
    assert names(tmp_path) == {"archive"}


def test_a_zip_cut_after_a_zip_that_it_holds_is_refused(tmp_path):
    packed, inner = io.BytesIO(), zip_bytes({"inner": b"inner"})
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("first.zip", inner)
        archive.writestr("second", b"second")
    cut = packed.getvalue().index(inner) + len(inner)
    refusal(unpack, put(tmp_path, packed.getvalue()[:cut]), tmp_path / "folder")


@pytest.mark.parametrize(
    "content",
    [b"", b"text\n" * 1000, bytes(10240), CONTENT, gzip.compress(b"text"), bz2.compress(b"text"), b"PK\x03\x04", b"PK"],
    ids=["empty", "text", "zeros", "noise", "gzip", "bzip2", "zip magic", "PK"],
)
def test_a_file_that_is_no_archive_is_refused(tmp_path, content):
    archive = put(tmp_path, content)
    assert "expected a whole tar or zip archive" in refusal(unpack, archive, tmp_path / "folder")
    assert names(tmp_path) == {"archive"}


def test_an_encrypted_zip_is_refused(tmp_path):
    content = zip_bytes({"a": b"secret"})
    for start, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = content.index(start) + flags
        content = content[:at] + b"\1" + content[at + 1 :]
    assert "encrypted" in refusal(unpack, put(tmp_path, content), tmp_path / "folder")


def test_a_zip_name_with_a_null_byte_is_refused(tmp_path):
    content = zip_bytes({"folder/daisy.jpg": b"daisy"}).replace(b"folder/d", b"folder/\0")
    assert r"folder/\x00aisy.jpg" in refusal(unpack, put(tmp_path, content), tmp_path / "folder")


def test_a_missing_archive_is_named(tmp_path):
    assert "No such file" in refusal(unpack, tmp_path / "archive", tmp_path / "folder")
    assert names(tmp_path) == set()


def test_a_file_in_the_place_of_a_folder_is_refused(tmp_path):
    archive = put(tmp_path, tar_bytes({"a": b"file", "a/b": b"below it"}))
    refusal(unpack, archive, tmp_path / "folder")
    assert names(tmp_path) == {"archive"}


PARTS = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/\\:"), min_size=1, max_size=20)
TREES = st.dictionaries(
    st.lists(PARTS.filter(lambda part: part not in (".", "..")), min_size=1, max_size=4).map("/".join),
    st.binary(max_size=2000),
    min_size=1,
    max_size=8,
).filter(lambda tree: not any(f"{name}/" in f"{other}/" and name != other for name in tree for other in tree))


@settings(max_examples=60)
@given(TREES, st.sampled_from(sorted(PACKERS)))
def test_any_tree_comes_back_from_its_archive(tree, kind):
    with tempfile.TemporaryDirectory() as scratch:
        assert read_tree(unpack(put(Path(scratch), PACKERS[kind](tree)), Path(scratch) / "folder")) == tree
