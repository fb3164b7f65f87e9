"""Archives, unpacked without trust in them."""

from __future__ import annotations

import stat
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath

from components.errors import UserError
from components.storage.files import locked
from components.storage.ownership import replacing_folder
from components.storage.places import local_copy

CHUNK = 2**16
ZIP_STARTS = (b"PK\x03\x04", b"PK\x05\x06")
# ImageNet's training set, the largest that is packed as files, has 1.3 million.
MAX_MEMBERS = 2_000_000
MAX_DEPTH = 64  # folders in a name
TOO_LARGE = "its headers are larger than any file's name, or list the holes of a sparse file"
MAX_HEADER = 2**20  # bytes of a header before a member of a tar: its name and attributes, kilobytes at most


def unpack(archive: Path, folder: Path, max_bytes: int = 20 * 2**30) -> Path:
    """Return `folder` with the files of a tar or zip archive, as it is if it exists; raises UserError for a bad one."""
    if folder.is_dir():
        return folder
    try:
        with locked(folder):
            if not folder.is_dir():
                with replacing_folder(folder) as partial, local_copy(archive) as local:
                    _unpack(archive, local, partial, max_bytes)
    except UserError:
        raise
    except Exception as error:  # hostile bytes bring parsers to nearly any
        reason, advice = str(error).partition("\n")[0].rstrip(":"), "expected a whole tar or zip archive, get it again"
        if isinstance(error, OSError) and error.errno is not None:  # from the file system, not from a parser
            reason, advice = error.strerror or "", "see that the one can be read and the other written"
        raise UserError(f"Cannot unpack '{archive}' into '{folder}' ({reason}): {advice}.") from error
    return folder


def _unpack(archive: Path, local: Path, folder: Path, max_bytes: int) -> None:
    with open(local, "rb") as file:
        unpack_next = _unpack_zip if file.read(4) in ZIP_STARTS else _unpack_tar
    total = 0
    for number, (name, is_plain, size) in enumerate(unpack_next(local, folder), 1):
        if number > MAX_MEMBERS:
            raise UserError(f"'{archive}' has more than the {MAX_MEMBERS:,} files and folders expected: use another.")
        windows = PureWindowsPath(name)  # knows drives and both kinds of slashes
        outside = windows.drive or windows.root or ".." in windows.parts or "\\" in name or "\0" in name
        if not is_plain or size < 0 or outside or len(windows.parts) > MAX_DEPTH:
            raise UserError(
                f"'{archive}' has the member {name[:300]!r}: expected only plain files and folders, with names that "
                "stay inside, so get the archive from a source that you trust."
            )
        total += size
        if total > max_bytes:
            raise UserError(f"'{archive}' unpacks to more than the {max_bytes} bytes expected: use another.")
    if not any(folder.iterdir()):
        raise ValueError("it is empty")


class _Header(tarfile.TarInfo):
    """A header of a tar; tarfile would read one of any size into memory, and follow a size below 0 backwards."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Header:
        header = super().frombuf(buf, encoding, errors)
        limits = {tarfile.REGTYPE: sys.maxsize, tarfile.AREGTYPE: sys.maxsize, tarfile.GNUTYPE_SPARSE: -1}
        if not 0 <= header.size <= limits.get(header.type, MAX_HEADER):
            raise ValueError(TOO_LARGE)
        return header

    def _proc_gnusparse_10(self, *_: object) -> None:
        raise ValueError(TOO_LARGE)


def _unpack_tar(archive: Path, folder: Path) -> Iterator[tuple[str, bool, int]]:
    """Yield each member's name, if it is a file or a folder, and its bytes, and then unpack it; raises nearly any error
    for damage.
    """
    with tarfile.open(archive, tarinfo=_Header) as tar:
        while member := tar.next():
            yield member.name, member.isreg() or member.isdir(), member.size
            tar.extract(member, folder, set_attrs=False, filter="data")
            tar.members.clear()  # type: ignore[attr-defined]  # it remembers a kilobyte of every image
        # tarfile takes a cut or damaged header for the end, which truly is a block of zeros; and only reading to the
        # last byte makes gzip and its like compare checksums.
        tar.fileobj.seek(tar.offset)
        if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("it breaks off")
        while tar.fileobj.read(CHUNK):
            pass


def _unpack_zip(archive: Path, folder: Path) -> Iterator[tuple[str, bool, int]]:
    """Yield and unpack the members as _unpack_tar; zipfile reads no more of one than the bytes that it names."""
    with zipfile.ZipFile(archive) as zipped:
        # A cut zip may end in the directory of a zip that it holds.
        if min((member.header_offset for member in zipped.infolist()), default=0):
            raise zipfile.BadZipFile("it breaks off")
        for member in zipped.infolist():
            kind = stat.S_IFMT(member.external_attr >> 16)  # 0 where it was packed elsewhere than on Unix
            # The original name: zipfile's other one silently ends at a null byte.
            yield member.orig_filename, kind in (0, stat.S_IFREG, stat.S_IFDIR), member.file_size
            zipped.extract(member, folder)
