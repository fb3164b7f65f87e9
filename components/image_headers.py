"""What the first bytes and the headers of image files tell, without decoding them; damaged ones tell less."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

# How files begin. A BMP's two letters are too few: the size of its second header, one of eight, is asked for too.
FORMATS = {
    "jpeg": rb"\xff\xd8\xff",
    "png": rb"\x89PNG\r\n\x1a\n",
    "gif": rb"GIF8[79]a",
    "bmp": rb"BM.{12}[\x0c\x10\x28\x34\x38\x40\x6c\x7c]\0\0\0",
    "webp": rb"RIFF.{4}WEBP",
    "tiff": rb"(II\*\0|MM\0\*|II\+\0|MM\0\+)(?!.{4}CR)",
}
UNREAD_FORMATS = {
    "HEIC": rb".{4}ftyp(he[iv][cmsx]|mif1|msf1)",
    "AVIF": rb".{4}ftypavi[fs]",
    "a camera's raw file": rb"II\*\0.{4}CR|.{4}ftypcrx|FUJIFILMCCD-RAW",
    "a video": rb".{4}ftyp",
    "JPEG XL": rb"\xff\x0a|\0\0\0\x0cJXL ",
    "JPEG 2000": rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51",
    "SVG": rb"(\xef\xbb\xbf)?\s*(<\?xml.{,1000})?<svg",
    "PDF": rb"%PDF-",
    "PSD": rb"8BPS",
    "ICO": rb"\0\0\x01\0",
}
JPEG_SCAN = b"\xff\xda"


def find_format(content: bytes, patterns: dict[str, bytes]) -> str | None:
    """Return the name of the first pattern with which a file's content begins."""
    return next((name for name, pattern in patterns.items() if re.match(pattern, content, re.DOTALL)), None)


def count_scans(jpeg: bytes) -> int:
    """Count the scans of a JPEG, or more: those of its thumbnails, and chance hits in data behind its end."""
    return jpeg.count(JPEG_SCAN)


def read_png_size(png: bytes) -> tuple[int, int]:
    """Return the (width, height) that a PNG claims, zeros where its header is cut off."""
    width, height = struct.unpack(">II", png[16:24].ljust(8, b"\0"))
    return width, height


def read_gif_sizes(gif: bytes) -> Iterator[tuple[int, int]]:
    """Yield the (width, height) of every frame of a GIF up to where it is damaged."""

    def colours(flags: int) -> int:
        return 3 << (flags & 7) + 1 if flags & 0x80 else 0

    at = 13 + colours(gif[10]) if len(gif) > 13 else len(gif)
    while at + 10 < len(gif) and gif[at] in b",!":  # an image or an extension
        if gif[at] == ord(","):
            width, height, flags = struct.unpack_from("<HHB", gif, at + 5)
            yield width, height
            at += 11 + colours(flags)
        else:
            at += 2
        while at < len(gif) and gif[at]:  # blocks of data, each behind its size; the last is empty
            at += gif[at] + 1
        at += 1


def read_bmp_size(bmp: bytes) -> tuple[int, int]:
    """Return the (width, height) that a BMP claims; a negative height means rows from the top."""
    width, height = struct.unpack("<ii", bmp[18:26].ljust(8, b"\0"))
    return width, abs(height)


def is_plain_bmp(bmp: bytes) -> bool:
    """Tell the BMPs whose colours TensorFlow reads as they are meant: it takes the bytes behind the headers for rows of
    blue, green, red and no more, whatever the headers say of palettes, masks and compression."""
    if len(bmp) < 34:
        return False
    start, header, width, height, _, bits, compression = struct.unpack_from("<IIiiHHI", bmp, 10)
    row = (bits // 8 * width + 3) // 4 * 4
    return header >= 40 and bits in (24, 32) and compression == 0 and start + row * abs(height) == len(bmp)


def count_tag_values(tiff: bytes) -> int:
    """Return how many values the tags of a TIFF's first page claim to have; raises struct.error for a cut off one."""
    order = "<" if tiff.startswith(b"II") else ">"
    is_big = b"+" in tiff[2:4]  # BigTIFF: 64 bits for places and counts
    (directory,) = struct.unpack_from(order + ("Q" if is_big else "I"), tiff, 8 if is_big else 4)
    (tags,) = struct.unpack_from(order + ("Q" if is_big else "H"), tiff, directory)
    tag = struct.Struct(order + ("4xQ8x" if is_big else "4xI4x"))
    first = directory + (8 if is_big else 2)
    table = tiff[first : first + tags * tag.size]
    return sum(count for (count,) in tag.iter_unpack(table[: len(table) // tag.size * tag.size]))
