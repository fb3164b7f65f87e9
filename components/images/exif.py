"""The EXIF of an image file, found by walking over its parts without decoding it, and the orientation that it tells.

components.images.exif_graph does the same inside the graph for JPEG and PNG, where it costs a hundred times more.
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
# A PNG of 64 MiB has 8,192 chunks of libpng's size. In the graph, so many parts take half a second.
MAX_PARTS = 10_000
TOO_MANY_PARTS = f"its EXIF is not among its first {MAX_PARTS:,} parts: save it anew"


def find_exif(content: bytes) -> bytes:
    """Return the TIFF structure that a JPEG, PNG or WebP has as EXIF or that a TIFF is; empty where there is none.

    Raises RejectedImage where it lies behind MAX_PARTS parts.
    """
    if content.startswith((b"II*\0", b"MM\0*")):
        return content
    for start, mark, first, look in FORMATS:
        if content.startswith(start) and mark in content:
            return _walk(content, first, look).removeprefix(EXIF_MARK)
    return b""


# Maps a file's content and the place of a part of it to where the EXIF in it begins and ends, if it has one, and to the
# place of the next part; None at the end of what may come before EXIF.
Look = Callable[[bytes, int], "tuple[slice | None, int] | None"]


def _walk(content: bytes, at: int, look: Look) -> bytes:
    for _ in range(MAX_PARTS):
        part = look(content, at)
        if part is None:
            return b""
        found, at = part
        if found:
            return content[found]
    if at < len(content):
        raise RejectedImage(UNSUPPORTED, TOO_MANY_PARTS)
    return b""


def _look_in_jpeg(jpeg: bytes, at: int) -> tuple[slice | None, int] | None:
    head = jpeg[at : at + 10]
    if head[:1] != b"\xff" or head[1:2] == bytes([START_OF_SCAN]):
        return None
    if head[1:2] == bytes([FILL]):
        return None, at + 1
    behind = at + 2 + int.from_bytes(head[2:4], "big")
    return (slice(at + 10, behind) if head[1:2] == bytes([APP1]) and head[4:] == EXIF_MARK else None), behind


def _look_in_png(png: bytes, at: int) -> tuple[slice | None, int] | None:
    length, kind = int.from_bytes(png[at : at + 4], "big"), png[at + 4 : at + 8]
    if len(kind) < 4 or kind == PNG_END:
        return None
    behind = min(at + 12 + length, len(png))
    return (slice(at + 8, behind - 4) if kind == PNG_EXIF else None), behind


def _look_in_webp(webp: bytes, at: int) -> tuple[slice | None, int] | None:
    length, kind = int.from_bytes(webp[at + 4 : at + 8], "little"), webp[at : at + 4]
    if len(kind) < 4:
        return None
    return (slice(at + 8, at + 8 + length) if kind == b"EXIF" else None), at + 8 + length + length % 2


# How a file of each format begins, what stands in one that has EXIF, and where its first part is.
FORMATS: list[tuple[bytes, bytes, int, Look]] = [
    (b"\xff\xd8", EXIF_MARK, 2, _look_in_jpeg),
    (PNG_MARK, PNG_EXIF, 8, _look_in_png),
    (b"RIFF", b"EXIF", 12, _look_in_webp),
]


def read_orientation(tiff: bytes) -> int:
    """Return the orientation 1 to 8 that the first directory of a TIFF structure tells, 1 where it tells none."""
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
