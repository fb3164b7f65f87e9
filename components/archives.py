"""Archives, unpacked without trust in them."""

from __future__ import annotations

import stat
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath
from typing import IO, Any

from components.errors import UserError
from components.files import locked, replacing_folder
from components.places import local_copy

CHUNK = 2**16
ZIP_STARTS = (b"PK\x03\x04", b"PK\x05\x06")


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
    for name, plain, content in members(local):
        windows = PureWindowsPath(name)  # knows drives and both kinds of slashes
        if not plain or windows.drive or windows.root or ".." in windows.parts or "\\" in name:
            raise UserError(
                f"'{archive}' has the member {name!r}: expected only plain files and folders, with names that stay "
                "inside, so get the archive from a source that you trust."
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


def _tar_members(archive: Path) -> Iterator[tuple[str, bool, IO[bytes] | None]]:
    """Yield each member's name, if it is a file or a folder, and a file's content; damage raises nearly any error."""
    with tarfile.open(archive) as tar:
        while member := tar.next():
            yield member.name, member.isreg() or member.isdir(), tar.extractfile(member) if member.isreg() else None
            tar.members.clear()  # type: ignore[attr-defined]  # it remembers a kilobyte of every image
        # tarfile takes a cut or damaged header for the end, which truly is a block of zeros; and only reading to the
        # last byte makes gzip and its like compare checksums.
        stream: Any = tar.fileobj
        stream.seek(tar.offset)
        if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("it breaks off")
        while stream.read(CHUNK):
            pass


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
