"""The format and size of image files, from their headers without decoding, and the limits of an image."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import takewhile

from components.images.exif import APP1, START_OF_SCAN
from components.rejects import EMPTY, TOO_LARGE, RejectedImage

# The first bytes of files. The two letters of a BMP are too few: its second header must have one of eight sizes too.
READ_FORMATS = {
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
# Second bytes of JPEG's markers (ITU-T T.81, table B.1).
END_OF_IMAGE = 0xD9
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
PROGRESSIVE = frozenset((0xC2, 0xCA))
STANDALONE = frozenset(range(0xD0, 0xDB))  # without a length, or scans, which follow the frame

# Adobe Technical Note 5116, section 18. Viewers read CMYK as inverted, TensorFlow only with this marker. The file's own
# marker comes later and overrides the transform 0 of this one.
ADOBE_MARKER = b"\xff\xee" + struct.pack(">H5sHHHB", 14, b"Adobe", 100, 0, 0, 0)

METADATA = frozenset(range(APP1, 0xF0)) - {0xEE}
# The first bytes of a segment or a scan.
SEGMENT = re.compile(rb"\xff[\xc0-\xcf\xda-\xfe]")
# The first bytes of a segment or the end of the image; in the data of a scan, 0xFF precedes only zeros and restarts.
MARKER = re.compile(rb"\xff[\x02-\xcf\xd9-\xfe]")
# Writers make about ten.
FEW_SCANS = 12

# Blocks before the first image of a GIF: XMP has some hundreds. In the graph, 10,000 take half a second.
MAX_GIF_BLOCKS = 10_000

# In the upper 8 of 16 bits. Cameras and scanners of 10, 12 or 14 bits store numbers below a quarter of the range, which
# look black as numbers of 16 bits.
LEAST_BRIGHT = 64


@dataclass(frozen=True)
class Limits:
    """The most bytes of an image file, and the most pixels of all its frames together."""

    max_bytes: int = 64 * 2**20
    max_pixels: int = 100_000_000


def check_bytes(size: int, limits: Limits) -> None:
    """Raise RejectedImage for a file of 0 bytes or of more than the limit."""
    if not size:
        raise RejectedImage(EMPTY, "0 bytes")
    if size > limits.max_bytes:
        raise RejectedImage(TOO_LARGE, f"{size:,} bytes, more than the {limits.max_bytes:,} allowed")


def check_pixels(sizes: Iterable[tuple[int, int]], limits: Limits) -> None:
    """Raise RejectedImage if frames (width, height), or the canvas that contains them all, have too many pixels."""
    width = height = pixels = 0
    for frames, size in enumerate(sizes, 1):
        width, height = max(width, size[0]), max(height, size[1])
        pixels += size[0] * size[1]
        if max(pixels, width * height) > limits.max_pixels:
            words = f" in {frames} frames" if frames > 1 else ""
            allowed = f"{limits.max_pixels:,} allowed"
            raise RejectedImage(TOO_LARGE, f"{width}x{height} pixels{words}, more than the {allowed}")


def describe_dark(brightest: int) -> str:
    """Return the reason to refuse a 16-bit image; brightest, below LEAST_BRIGHT, is the upper 8 bits of its maximum."""
    most = 256 * brightest + 255
    return f"no value of its 16 bits is above {most:,} of 65,535: scale it to the full range, or to 8 bits"


def find_format(content: bytes, patterns: dict[str, bytes]) -> str | None:
    """Return the name of the first pattern that matches the start of a file's content, None if none does."""
    return next((name for name, pattern in patterns.items() if re.match(pattern, content, re.DOTALL)), None)


def _list_segments(jpeg: bytes, pattern: re.Pattern[bytes]) -> Iterator[tuple[int, int, int]]:
    """Yield the second byte of the marker, the start and the end of each segment that a pattern finds in a JPEG."""
    end = 2
    while marker := pattern.search(jpeg, end):
        end = marker.end() + max(int.from_bytes(jpeg[marker.end() : marker.end() + 2], "big"), 2)
        yield jpeg[marker.end() - 1], marker.start(), end


def count_scans(jpeg: bytes) -> int:
    """Return the number of scans of a JPEG; up to FEW_SCANS it is an upper bound."""
    hits = jpeg.count(bytes((0xFF, START_OF_SCAN)))
    if hits <= FEW_SCANS:
        return hits
    # Thumbnails in segments and a video after the end contain such bytes too.
    kinds = takewhile(END_OF_IMAGE.__ne__, (kind for kind, _, _ in _list_segments(jpeg, MARKER)))
    return sum(kind == START_OF_SCAN for kind in kinds)


def is_cut_off(jpeg: bytes) -> bool:
    """Return whether a JPEG ends before libjpeg starts to decode: before its first scan or, if progressive, its end.

    For such a file libjpeg also writes to the terminal that it was called improperly.
    """
    progressive = False
    for kind, start, _ in _list_segments(jpeg, SEGMENT):
        if kind == START_OF_SCAN:
            return progressive and jpeg.find(bytes((0xFF, END_OF_IMAGE)), start) < 0
        progressive |= kind in PROGRESSIVE
    return True


def find_jpeg_frame(jpeg: bytes) -> int | None:
    """Return the offset of the frame of a JPEG, None if there are other bytes between the segments before it."""
    at = 2
    while at + 9 < len(jpeg) and jpeg[at] == 0xFF:
        if jpeg[at + 1] in FRAMES:
            return at
        if not 0xC0 <= jpeg[at + 1] < 0xFF or jpeg[at + 1] in STANDALONE:
            return None
        at += 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
    return None


def read_jpeg_size(jpeg: bytes) -> tuple[int, int] | None:
    """Return the (width, height) of a JPEG, None if only decoding can find it."""
    frame = find_jpeg_frame(jpeg)
    if frame is None:
        return None
    height, width = struct.unpack_from(">HH", jpeg, frame + 5)
    return width, height


def mark_cmyk(jpeg: bytes) -> bytes:
    """Return a JPEG, with Adobe's marker added if it has four components and no such marker."""
    frame = find_jpeg_frame(jpeg)
    if frame is None or jpeg[frame + 9] != 4 or re.search(rb"\xff\xee..Adobe", jpeg, re.DOTALL):
        return jpeg
    return jpeg[:2] + ADOBE_MARKER + jpeg[2:]


def drop_jpeg_metadata(jpeg: bytes) -> bytes:
    """Return a JPEG without EXIF, profiles and the like before its first scan; it keeps the markers of JFIF and Adobe,
    which define its colours."""
    kept = [jpeg[:2]]
    for kind, start, end in _list_segments(jpeg, SEGMENT):
        if kind == START_OF_SCAN:
            return b"".join([*kept, jpeg[start:]])
        if kind not in METADATA:
            kept.append(jpeg[start:end])
    return b"".join(kept)


def inflate_png_text(png: bytes, most: int) -> int:
    """Return the unpacked bytes of the compressed texts and profiles of a PNG; counting stops above most."""
    inflated, at = 0, 8
    while at + 12 <= len(png) and inflated <= most:
        length, kind = struct.unpack_from(">I4s", png, at)
        at += 12 + length
        if kind in (b"zTXt", b"iTXt", b"iCCP"):
            inflated += _inflate(png[at - 4 - length : at - 4], kind, most)
    return inflated


def _inflate(chunk: bytes, kind: bytes, most: int) -> int:
    _, _, packed = chunk.partition(b"\0")  # after the name
    if kind == b"iTXt" and not packed.startswith(b"\1"):
        return len(packed)
    # After the method, and in an iTXt also after the language and the translated name.
    packed = packed[2:].split(b"\0", 2)[-1] if kind == b"iTXt" else packed[1:]
    try:
        return len(zlib.decompressobj().decompress(packed, most + 1))
    except zlib.error:
        return 0


def read_gif_canvas(gif: bytes) -> tuple[int, int]:
    """Return the (width, height) of the canvas of a GIF: that in its header, enlarged to contain its first frame."""
    width, height = struct.unpack("<HH", gif[6:10].ljust(4, b"\0"))
    frame = next(list_gif_frames(gif), (0, 0, 0, 0))
    return max(width, frame[0] + frame[2]), max(height, frame[1] + frame[3])


def list_gif_frames(gif: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Yield left, top, width and height, in pixels, of every frame of a GIF up to the first damage."""

    def colours(flags: int) -> int:
        return 3 << (flags & 7) + 1 if flags & 0x80 else 0

    at = 13 + colours(gif[10]) if len(gif) > 13 else len(gif)
    while at + 10 < len(gif) and gif[at] in b",!":  # an image or an extension
        if gif[at] == ord(","):
            left, top, width, height, flags = struct.unpack_from("<HHHHB", gif, at + 1)
            yield left, top, width, height
            at += 11 + colours(flags)
        else:
            at += 2
        while at < len(gif) and gif[at]:  # blocks of data, each after its size; the last is empty
            at += gif[at] + 1
        at += 1


def is_plain_bmp(bmp: bytes) -> bool:
    """Return whether TensorFlow reads the colours of a BMP correctly.

    It reads the bytes after the headers as rows of blue, green and red, and ignores palettes, masks and compression.
    """
    if len(bmp) < 34:
        return False
    start, header, width, height, _, bits, compression = struct.unpack_from("<IIiiHHI", bmp, 10)
    row = (bits // 8 * width + 3) // 4 * 4
    return header >= 40 and bits in (24, 32) and compression == 0 and start + row * abs(height) == len(bmp)


def count_tag_values(tiff: bytes) -> int:
    """Return the number of values that the tags of a TIFF's first page claim; raises struct.error for a short file."""
    order = "<" if tiff.startswith(b"II") else ">"
    is_big = b"+" in tiff[2:4]  # BigTIFF: 64 bits for offsets and counts
    (directory,) = struct.unpack_from(order + ("Q" if is_big else "I"), tiff, 8 if is_big else 4)
    (tags,) = struct.unpack_from(order + ("Q" if is_big else "H"), tiff, directory)
    tag = struct.Struct(order + ("4xQ8x" if is_big else "4xI4x"))
    first = directory + (8 if is_big else 2)
    table = tiff[first : first + tags * tag.size]
    return sum(count for (count,) in tag.iter_unpack(table[: len(table) // tag.size * tag.size]))
