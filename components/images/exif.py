"""The EXIF of an image file, found without decoding, and the orientation in it.

components.images.exif_graph does the same in the graph for JPEG and PNG, where it takes a hundred times as long.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from components.rejects import UNSUPPORTED, RejectedImage

EXIF_MARK = b"Exif\0\0"
# JPEG: ITU-T T.81, table B.1. PNG: third edition, 11.3.4.5.
START_OF_SCAN, APP1, FILL = 0xDA, 0xE1, 0xFF
PNG_MARK, PNG_EXIF, PNG_END = b"\x89PNG", b"eXIf", b"IEND"
# EXIF 2.3, 4.6.4: the tag of the first directory and the type of its value.
ORIENTATION_TAG, SHORT = 0x0112, 3
# A PNG of 64 MiB has 8,192 chunks of libpng's size. In the graph, 10,000 parts take half a second.
MAX_EXIF_PARTS = 10_000
TOO_MANY_PARTS = f"its EXIF is not among its first {MAX_EXIF_PARTS:,} parts: save it anew"


def find_exif(content: bytes) -> bytes:
    """Return the EXIF of a JPEG, PNG or WebP, a TIFF structure, or a TIFF itself; empty for all other content.

    Raises RejectedImage for EXIF that is not among the first MAX_EXIF_PARTS parts.
    """
    if content.startswith((b"II*\0", b"MM\0*")):
        return content
    for start, mark, first, read_part in EXIF_FORMATS:
        if content.startswith(start) and mark in content:
            return _walk(content, first, read_part).removeprefix(EXIF_MARK)
    return b""


# Maps a file's content and the offset of a part to the slice of the EXIF in the part, None without EXIF, and the offset
# of the next part; returns None if no later part can have EXIF.
ReadPart = Callable[[bytes, int], "tuple[slice | None, int] | None"]


def _walk(content: bytes, at: int, read_part: ReadPart) -> bytes:
    for _ in range(MAX_EXIF_PARTS):
        part = read_part(content, at)
        if part is None:
            return b""
        found, at = part
        if found:
            return content[found]
    if at < len(content):
        raise RejectedImage(UNSUPPORTED, TOO_MANY_PARTS)
    return b""


def _read_jpeg_part(jpeg: bytes, at: int) -> tuple[slice | None, int] | None:
    head = jpeg[at : at + 10]
    if head[:1] != b"\xff" or head[1:2] == bytes([START_OF_SCAN]):
        return None
    if head[1:2] == bytes([FILL]):
        return None, at + 1
    end = at + 2 + int.from_bytes(head[2:4], "big")
    return (slice(at + 10, end) if head[1:2] == bytes([APP1]) and head[4:] == EXIF_MARK else None), end


def _read_png_part(png: bytes, at: int) -> tuple[slice | None, int] | None:
    length, kind = int.from_bytes(png[at : at + 4], "big"), png[at + 4 : at + 8]
    if len(kind) < 4 or kind == PNG_END:
        return None
    end = min(at + 12 + length, len(png))
    return (slice(at + 8, end - 4) if kind == PNG_EXIF else None), end


def _read_webp_part(webp: bytes, at: int) -> tuple[slice | None, int] | None:
    length, kind = int.from_bytes(webp[at + 4 : at + 8], "little"), webp[at : at + 4]
    if len(kind) < 4:
        return None
    return (slice(at + 8, at + 8 + length) if kind == b"EXIF" else None), at + 8 + length + length % 2


# Per format: the first bytes of a file, bytes that a file with EXIF contains, and the offset of the first part.
EXIF_FORMATS: list[tuple[bytes, bytes, int, ReadPart]] = [
    (b"\xff\xd8", EXIF_MARK, 2, _read_jpeg_part),
    (PNG_MARK, PNG_EXIF, 8, _read_png_part),
    (b"RIFF", b"EXIF", 12, _read_webp_part),
]


def read_orientation(tiff: bytes) -> int:
    """Return the orientation, 1 to 8, in the first directory of a TIFF structure, 1 if it has none."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None or len(tiff) < 10:
        return 1
    (directory,) = struct.unpack_from(order + "I", tiff, 4)
    if not 8 <= directory <= len(tiff) - 2:
        return 1
    (tags,) = struct.unpack_from(order + "H", tiff, directory)
    table = tiff[directory + 2 : directory + 2 + 12 * tags]
    for tag, kind, value in struct.iter_unpack(order + "HH4xH2x", table[: len(table) // 12 * 12]):
        if (tag, kind) == (ORIENTATION_TAG, SHORT):
            return value if 1 <= value <= 8 else 1
    return 1
