"""Image files of kinds that Pillow does not write, from arrays of numbers, as each format's specification has it."""

import struct
import zlib

import numpy as np

# PNG third edition, 8.1: where each pass of Adam7 begins, and how far apart its columns and rows are.
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6


def pack_rows(samples, depth, order=">"):
    """Return rows of samples int[H, W, C] of a depth in bits, each row filled up to whole bytes."""
    flat = samples.reshape(len(samples), -1)
    if depth >= 8:
        return [row.astype(f"{order}u{depth // 8}").tobytes() for row in flat]
    bits = (flat[..., None] >> np.arange(depth)[::-1]) & 1
    return [np.packbits(row.reshape(-1)).tobytes() for row in bits]


def png_chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def write_png(samples, depth, colours, *before, interlaced=False, behind=b""):
    """Return a PNG of samples int[H, W, C], its depth in bits, with chunks before its pixels and behind them."""
    height, width = samples.shape[:2]
    parts = [samples[y::down, x::across] for x, y, across, down in ADAM7] if interlaced else [samples]
    rows = b"".join(b"\0" + row for part in parts if part.size for row in pack_rows(part, depth))
    header = struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, interlaced)
    chunks = [
        png_chunk(b"IHDR", header),
        *before,
        png_chunk(b"IDAT", zlib.compress(rows)),
        behind,
        png_chunk(b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def write_gif(indices, palette, canvas=None, at=(0, 0), transparent=None, own=False, before=b"", interlaced=False):
    """Return a GIF of indices int[H, W] into a palette uint8[C, 3] of the canvas or its own; codes are not packed."""
    (height, width), size = indices.shape, len(palette).bit_length() - 2
    colours = palette.astype(np.uint8).tobytes()
    head = b"GIF89a" + struct.pack("<HHBBB", *(canvas or (width, height)), 0 if own else 0x80 | size, 0, 0)
    control = b"" if transparent is None else b"!\xf9\x04" + struct.pack("<BHBB", 1, 0, transparent, 0)
    flags = (0x80 | size if own else 0) | 0x40 * interlaced
    frame = b"," + struct.pack("<HHHHB", *at, width, height, flags)
    order = [*range(0, height, 8), *range(4, height, 8), *range(2, height, 4), *range(1, height, 2)]
    rows = indices[order] if interlaced else indices
    # Codes of 8 bits, each 100 pixels begun anew, so that codes never grow: 128 clears, 129 ends.
    codes = b"".join(
        b"\x80" + rows.reshape(-1)[n : n + 100].astype(np.uint8).tobytes() for n in range(0, rows.size, 100)
    )
    codes += b"\x81"
    blocks = b"".join(bytes([len(part)]) + part for part in (codes[n : n + 255] for n in range(0, len(codes), 255)))
    image = (colours if own else b"") + b"\x07" + blocks + b"\0"
    return head + (b"" if own else colours) + before + control + frame + image + b";"


def write_bmp(rows, width, height, bits, palette=b"", compression=0, masks=b"", header=40):
    """Return a BMP of rows of bytes, the lowest first unless the height is negative."""
    data = b"".join(row + b"\0" * (-len(row) % 4 if compression in (0, 3) else 0) for row in rows)
    if header == 12:
        second = struct.pack("<IHHHH", 12, width, height, 1, bits)
    else:
        fields = (header, width, height, 1, bits, compression, len(data), 0, 0, len(palette) // 4, 0)
        second = (struct.pack("<IiiHHIIiiII", *fields) + masks).ljust(header, b"\0")
    start = 14 + len(second) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) + second + palette + data


def write_tiff(samples, depth, photometric, order="<", tags=(), tile=None, planar=False, kind="u"):
    """Return an uncompressed TIFF of samples int[H, W, C] in one strip, in tiles of a side, or in a strip a channel."""
    height, width, channels = samples.shape
    if depth >= 16:
        samples = samples.astype(f"{order}{kind}{depth // 8}")
        parts = [samples.tobytes()]
        if planar:
            parts = [samples[..., channel].tobytes() for channel in range(channels)]
    elif tile:
        padded = np.pad(samples, ((0, -height % tile), (0, -width % tile), (0, 0)))
        corners = [(y, x) for y in range(0, height, tile) for x in range(0, width, tile)]
        parts = [b"".join(pack_rows(padded[y : y + tile, x : x + tile], depth)) for y, x in corners]
    elif planar:
        parts = [b"".join(pack_rows(samples[..., channel : channel + 1], depth)) for channel in range(channels)]
    else:
        parts = [b"".join(pack_rows(samples, depth))]
    offsets = [8 + sum(len(part) for part in parts[:number]) for number in range(len(parts))]
    sizes = [len(part) for part in parts]
    data = b"".join(parts)
    data += b"\0" * (len(data) % 2)
    fields = {
        256: (3, [width]),
        257: (3, [height]),
        258: (3, [depth] * channels),
        259: (3, [1]),
        262: (3, [photometric]),
    }
    fields |= {277: (3, [channels]), 284: (3, [2 if planar else 1])}
    if tile:
        fields |= {322: (3, [tile]), 323: (3, [tile]), 324: (4, offsets), 325: (4, sizes)}
    else:
        fields |= {273: (4, offsets), 278: (3, [height]), 279: (4, sizes)}
    fields |= {tag: (3, list(values)) for tag, values in dict(tags).items()}
    directory, behind = b"", b""
    place = 8 + len(data) + 2 + 12 * len(fields) + 4
    for tag, (type_, values) in sorted(fields.items()):
        value = struct.pack(f"{order}{len(values)}{'HI'[type_ - 3]}", *values)
        if len(value) > 4:
            directory += struct.pack(f"{order}HHII", tag, type_, len(values), place + len(behind))
            behind += value
        else:
            directory += struct.pack(f"{order}HHI", tag, type_, len(values)) + value.ljust(4, b"\0")
    mark = b"II*\0" if order == "<" else b"MM\0*"
    first = struct.pack(f"{order}I", 8 + len(data))
    return mark + first + data + struct.pack(f"{order}H", len(fields)) + directory + bytes(4) + behind
