"""Unpack tar and zip archives from untrusted sources."""

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

ZIP_STARTS = (b"PK\x03\x04", b"PK\x05\x06")
# The training set of ImageNet, the largest one packed as files, has 1.3 million.
MAX_MEMBERS = 2_000_000
MAX_FOLDER_DEPTH = 64
OVERSIZED_HEADER = "its headers are larger than a file's name needs, or list the holes of a sparse file"
MAX_HEADER = 2**20  # bytes before a member of a tar for its name and attributes, which are kilobytes at most


def unpack(archive: Path, folder: Path, max_bytes: int = 20 * 2**30) -> Path:
    """Return `folder`, with the files of a tar or zip archive if it is new; raises UserError for a bad archive."""
    if folder.is_dir():
        return folder
    try:
        with locked(folder):
            if not folder.is_dir():
                with replacing_folder(folder) as partial, local_copy(archive) as local:
                    _unpack(archive, local, partial, max_bytes)
    except UserError:
        raise
    except Exception as error:  # hostile bytes can raise nearly any
        reason, advice = str(error).partition("\n")[0].rstrip(":"), "expected a whole tar or zip archive; get it again"
        if isinstance(error, OSError) and error.errno is not None:  # from the file system, not from a parser
            reason, advice = error.strerror or "", "check the permissions and the free space of both"
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
        if not is_plain or size < 0 or outside or len(windows.parts) > MAX_FOLDER_DEPTH:
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
    """A tar header with limits: tarfile would read any size into memory, and seek backwards for a negative one."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Header:
        header = super().frombuf(buf, encoding, errors)
        limits = {tarfile.REGTYPE: sys.maxsize, tarfile.AREGTYPE: sys.maxsize, tarfile.GNUTYPE_SPARSE: -1}
        if not 0 <= header.size <= limits.get(header.type, MAX_HEADER):
            raise ValueError(OVERSIZED_HEADER)
        return header

    def _proc_gnusparse_10(self, *_: object) -> None:
        raise ValueError(OVERSIZED_HEADER)


def _unpack_tar(archive: Path, folder: Path) -> Iterator[tuple[str, bool, int]]:
    """Yield (name, whether it is a file or folder, size in bytes) of each member, then unpack it.

    Damage can raise nearly any exception.
    """
    with tarfile.open(archive, tarinfo=_Header) as tar:
        while member := tar.next():
            yield member.name, member.isreg() or member.isdir(), member.size
            tar.extract(member, folder, set_attrs=False, filter="data")
            tar.members.clear()  # type: ignore[attr-defined]  # else it keeps a kilobyte per member
        # tarfile accepts a cut or damaged header as the end, but the real end is a block of zeros. gzip and the like
        # compare checksums only at the last byte.
        tar.fileobj.seek(tar.offset)
        if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("it is cut off")
        while tar.fileobj.read(2**16):
            pass


def _unpack_zip(archive: Path, folder: Path) -> Iterator[tuple[str, bool, int]]:
    """Yield and unpack members as _unpack_tar does; zipfile reads no more of a member than its stated size."""
    with zipfile.ZipFile(archive) as zipped:
        # A cut zip can end in the directory of a zip inside it.
        if min((member.header_offset for member in zipped.infolist()), default=0):
            raise zipfile.BadZipFile("it is cut off")
        for member in zipped.infolist():
            kind = stat.S_IFMT(member.external_attr >> 16)  # 0 if it was not packed on Unix
            # The original name: zipfile cuts `filename` at a null byte.
            yield member.orig_filename, kind in (0, stat.S_IFREG, stat.S_IFDIR), member.file_size
            zipped.extract(member, folder)
