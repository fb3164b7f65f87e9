"""Archives, unpacked without trust in them."""

from __future__ import annotations

import bz2
import gzip
import lzma
import stat
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PureWindowsPath
from typing import IO, Any

from components.errors import UserError
from components.storage.files import locked
from components.storage.ownership import replacing_folder
from components.storage.places import local_copy

CHUNK = 2**16
ZIP_STARTS = (b"PK\x03\x04", b"PK\x05\x06")
COMPRESSED: dict[bytes, Callable[[Path, str], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\0": lzma.open,
    b"\x5d\0\0": lzma.open,
}
# ImageNet's training set, the largest that is packed as files, has 1.3 million.
MAX_MEMBERS = 2_000_000
MAX_DEPTH = 64  # folders in a name
# What headers before one member of a tar may take: names and attributes of files, kilobytes at most.
MAX_HEADERS = 2**20


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
        members = _zip_members if file.read(4) in ZIP_STARTS else _tar_members
    written = 0
    for number, (name, plain, content) in enumerate(members(local), 1):
        if number > MAX_MEMBERS:
            raise UserError(f"'{archive}' has more than the {MAX_MEMBERS:,} files and folders expected: use another.")
        windows = PureWindowsPath(name)  # knows drives and both kinds of slashes
        outside = windows.drive or windows.root or ".." in windows.parts or "\\" in name
        if not plain or outside or len(windows.parts) > MAX_DEPTH:
            raise UserError(
                f"'{archive}' has the member {name[:300]!r}: expected only plain files and folders, with names that "
                "stay inside, so get the archive from a source that you trust."
            )
        target = folder / name
        if content is None:
            target.mkdir(parents=True, exist_ok=True)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        with content, open(target, "wb") as out:
            while chunk := content.read(CHUNK):
                written += len(chunk)
                if written > max_bytes:
                    raise UserError(f"'{archive}' unpacks to more than the {max_bytes} bytes expected: use another.")
                out.write(chunk)
    if not any(folder.iterdir()):
        raise ValueError("it is empty")


class _Tar:
    """The bytes of a tar, unpacked; tarfile takes whatever sizes its headers name into memory, this gives so much."""

    def __init__(self, archive: Path):
        with open(archive, "rb") as file:
            start = file.read(6)
        opener = next((opener for magic, opener in COMPRESSED.items() if start.startswith(magic)), None)
        self._stream: Any = (opener or open)(archive, "rb")
        self.allowed = MAX_HEADERS

    def read(self, size: int) -> bytes:
        self.allowed -= size
        if self.allowed < 0:
            raise tarfile.ReadError("its headers are larger than any file's name")
        content: bytes = self._stream.read(size)
        return content

    def seek(self, offset: int) -> int:
        position: int = self._stream.seek(offset)
        return position

    def tell(self) -> int:
        position: int = self._stream.tell()
        return position

    def close(self) -> None:
        self._stream.close()


def _tar_members(archive: Path) -> Iterator[tuple[str, bool, IO[bytes] | None]]:
    """Yield each member's name, if it is a file or a folder, and a file's content; damage raises nearly any error."""
    stream = _Tar(archive)
    try:
        with tarfile.TarFile(fileobj=stream) as tar:  # type: ignore[arg-type]  # it needs no more of a file
            while member := tar.next():
                stream.allowed = sys.maxsize
                yield member.name, member.isreg() or member.isdir(), tar.extractfile(member) if member.isreg() else None
                tar.members.clear()  # type: ignore[attr-defined]  # it remembers a kilobyte of every image
                stream.allowed = MAX_HEADERS
            stream.allowed = sys.maxsize
            # tarfile takes a cut or damaged header for the end, which truly is a block of zeros; and only reading to
            # the last byte makes gzip and its like compare checksums.
            stream.seek(tar.offset)
            if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError("it breaks off")
            while stream.read(CHUNK):
                pass
    finally:
        stream.close()


def _zip_members(archive: Path) -> Iterator[tuple[str, bool, IO[bytes] | None]]:
    with zipfile.ZipFile(archive) as zipped:
        # A cut zip may end in the directory of a zip that it holds.
        if min((member.header_offset for member in zipped.infolist()), default=0):
            raise zipfile.BadZipFile("it breaks off")
        for member in zipped.infolist():
            kind = stat.S_IFMT(member.external_attr >> 16)  # 0 where it was packed elsewhere than on Unix
            plain = kind in (0, stat.S_IFREG, stat.S_IFDIR)
            # The original name: zipfile's other one silently ends at a null byte.
            yield member.orig_filename, plain, zipped.open(member) if plain and not member.is_dir() else None
