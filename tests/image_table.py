"""Image files of all formats, modes and depths, and the pixels that a person sees in each."""

import io
import struct
import zlib

import numpy as np
from image_writers import (
    GREY,
    GREY_ALPHA,
    PALETTE,
    RGB,
    RGBA,
    pack_rows,
    png_chunk,
    write_bmp,
    write_gif,
    write_png,
    write_tiff,
)
from PIL import Image, ImageCms, ImageOps

WIDTH, HEIGHT = 61, 43
ORIENTATION = 0x0112


def see(content):
    """Return what Pillow makes of a file, upright and on white, uint8[H, W, 3]."""
    with Image.open(io.BytesIO(content)) as image:
        layer = ImageOps.exif_transpose(image).convert("RGBA")
        ground = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        ground.alpha_composite(layer)
        return np.asarray(ground.convert("RGB"))


def paint(channels=3, high=255, seed=0):
    """Return a smooth picture int[HEIGHT, WIDTH, channels] from 0 to high, with no symmetry."""
    small = np.random.default_rng(seed).random((6, 8, channels))
    planes = [
        np.asarray(Image.fromarray(small[..., n].astype(np.float32)).resize((WIDTH, HEIGHT), 3))
        for n in range(channels)
    ]
    picture = np.stack(planes, -1)
    picture = (picture - picture.min()) / (picture.max() - picture.min())
    return np.round(picture * high).astype(np.int64)


def on_white(colours, alpha, high):
    """Return colours int[H, W, 1 or 3] of a range on white, uint8[H, W, 3]."""
    share = alpha / high
    return np.round((colours / high * share + 1 - share) * 255).astype(np.uint8).repeat(3 // colours.shape[2], 2)


def encode(image, kind, *others, **settings):
    """Return an image, and others behind it if there are any, in a format as Pillow writes it."""
    buffer = io.BytesIO()
    # Copies, as Pillow keeps the settings of one format for the next.
    more = {"save_all": True, "append_images": [other.copy() for other in others]} if others else {}
    image.copy().save(buffer, kind, **more, **settings)
    return buffer.getvalue()


PHOTO = Image.fromarray(paint().astype(np.uint8))
OTHER = PHOTO.rotate(180)
CUT_OUT = Image.fromarray(np.concatenate([paint(), paint(1, seed=1)], -1).astype(np.uint8), "RGBA")


def turned(number, order="<"):
    """Return EXIF that tells an orientation, as its TIFF structure."""
    mark = b"II*\0" if order == "<" else b"MM\0*"
    return mark + struct.pack(f"{order}IHHHIHHI", 8, 1, ORIENTATION, 3, 1, number, 0, 0)


def segment(marker, content):
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(content) + 2) + content


def list_jpegs():
    """Yield (name, content, expected pixels, None for what Pillow sees)."""

    def insert(jpeg, *segments):
        return jpeg[:2] + b"".join(segments) + jpeg[2:]

    for mode, settings in {
        "RGB 4:4:4": {"subsampling": 0},
        "RGB 4:2:2": {"subsampling": 1},
        "RGB 4:2:0": {"subsampling": 2},
        "RGB progressive": {"progressive": True},
        "RGB progressive 4:4:4": {"progressive": True, "subsampling": 0},
        "RGB optimized": {"optimize": True},
        "RGB of low quality": {"quality": 20},
        "RGB restarted": {"restart_marker_blocks": 2},
        "RGB not converted": {"keep_rgb": True},
        "L": {},
        "L progressive": {"progressive": True},
    }.items():
        yield f"JPEG {mode}", encode(PHOTO.convert(mode.split()[0]), "JPEG", **{"quality": 90} | settings), None
    yield "JPEG of two pictures", encode(PHOTO, "MPO", OTHER), None
    for how in ({}, {"progressive": True}):
        cmyk = encode(PHOTO.convert("CMYK"), "JPEG", quality=95, **how)
        at = cmyk.index(b"\xff\xee")
        adobe = cmyk[at : at + 16]
        yield f"JPEG CMYK {how}", cmyk, None
        yield f"JPEG CMYK without marker {how}", cmyk.replace(adobe, b""), None
        yield f"JPEG YCCK {how}", cmyk.replace(adobe, adobe[:-1] + b"\2"), None
    plain, xmp = (
        encode(PHOTO, "JPEG", quality=90),
        segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + b"Exif words " * 5000),
    )
    profile = b"".join(segment(0xE2, b"ICC_PROFILE\0" + bytes([n, 4]) + b"p" * 60000) for n in range(1, 5))
    for number in range(1, 9):
        exif = segment(0xE1, b"Exif\0\0" + turned(number, "<>"[number % 2]))
        yield f"JPEG EXIF {number}", insert(plain, exif), None
        yield f"JPEG EXIF {number} behind a profile", insert(plain, profile, exif), None
        yield f"JPEG EXIF {number} behind XMP", insert(plain, xmp, xmp, exif), None
    exif = segment(0xE1, b"Exif\0\0" + turned(6))
    yield "JPEG EXIF behind fill bytes", insert(plain, b"\xff\xff\xff", exif), None
    yield "JPEG EXIF behind the tables", plain[: (at := plain.index(b"\xff\xda"))] + exif + plain[at:], None
    yield "JPEG grey EXIF", insert(encode(PHOTO.convert("L"), "JPEG"), exif), None


def list_pngs():
    for depth in (1, 2, 4, 8, 16):
        high = 2**depth - 1
        grey = paint(1, high)
        shown = on_white(grey, high, high)
        yield f"PNG grey {depth}", write_png(grey, depth, GREY), shown
        yield f"PNG grey {depth} interlaced", write_png(grey, depth, GREY, interlaced=True), shown
        key = int(grey[7, 9, 0])
        hidden = on_white(grey, np.where(grey == key, 0, high), high)
        yield f"PNG grey {depth} tRNS", write_png(grey, depth, GREY, png_chunk(b"tRNS", struct.pack(">H", key))), hidden
    for depth in (1, 2, 4, 8):
        palette = np.random.default_rng(depth).integers(0, 256, (2**depth, 3)).astype(np.uint8)
        indices, colours = paint(1, 2**depth - 1), png_chunk(b"PLTE", palette.tobytes())
        yield f"PNG palette {depth}", write_png(indices, depth, PALETTE, colours), palette[indices[..., 0]]
        alpha = np.random.default_rng(0).integers(0, 256, 2**depth - 1).astype(np.uint8)
        shown = on_white(palette[indices[..., 0]], np.append(alpha, 255)[indices], 255)
        chunks = (colours, png_chunk(b"tRNS", alpha.tobytes()))
        for interlaced in (False, True):
            content = write_png(indices, depth, PALETTE, *chunks, interlaced=interlaced)
            yield f"PNG palette {depth} tRNS {interlaced}", content, shown
    for depth in (8, 16):
        high = 2**depth - 1
        colour, grey, alpha = paint(3, high), paint(1, high), paint(1, high, seed=1)
        key = colour[3, 4]
        hidden = on_white(colour, np.where((colour == key).all(-1, keepdims=True), 0, high), high)
        yield f"PNG RGB {depth}", write_png(colour, depth, RGB), on_white(colour, high, high)
        yield (
            f"PNG RGB {depth} tRNS",
            write_png(colour, depth, RGB, png_chunk(b"tRNS", struct.pack(">3H", *key))),
            hidden,
        )
        for interlaced in (False, True):
            both = np.concatenate([grey, alpha], -1)
            content = write_png(both, depth, GREY_ALPHA, interlaced=interlaced)
            yield f"PNG grey with alpha {depth} {interlaced}", content, on_white(grey, alpha, high)
            both = np.concatenate([colour, alpha], -1)
            content = write_png(both, depth, RGBA, interlaced=interlaced)
            yield f"PNG RGBA {depth} {interlaced}", content, on_white(colour, alpha, high)
        clear = np.concatenate([colour, 0 * alpha], -1)
        # At 16 bits it is refused: an alpha that reaches nothing may be one of few bits.
        yield f"PNG RGBA {depth} clear", write_png(clear, depth, RGBA), np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    for number in range(1, 9):
        chunk = png_chunk(b"eXIf", turned(number))
        yield f"PNG eXIf {number}", write_png(paint(), 8, RGB, chunk), None
        text = png_chunk(b"tEXt", b"Comment\0eXIf is not here")
        yield f"PNG eXIf {number} behind its pixels", write_png(paint(), 8, RGB, text, behind=chunk), None
    yield "PNG RGBA eXIf", encode(CUT_OUT, "PNG", exif=b"Exif\0\0" + turned(6)), None
    yield "PNG animated", encode(PHOTO, "PNG", OTHER), None


def list_dark():
    """Yield files of 16 bits of which few are used, as cameras of 10 to 14 bits write them."""
    for bits in (8, 10, 12, 14):
        high = 2**bits - 1
        colour, grey = paint(3, high), paint(1, high)
        yield f"PNG grey of {bits} in 16", write_png(grey, 16, GREY)
        yield f"PNG RGB of {bits} in 16", write_png(colour, 16, RGB)
        yield f"PNG RGBA of {bits} in 16", write_png(np.insert(colour, 3, high, -1), 16, RGBA)
        yield f"PNG RGB of {bits} in 16 with full alpha", write_png(np.insert(colour, 3, 65535, -1), 16, RGBA)
        for order in "<>":
            yield f"TIFF grey {order} of {bits} in 16", write_tiff(grey, 16, 1, order)
            yield f"TIFF RGB {order} of {bits} in 16", write_tiff(colour, 16, 2, order)
    yield "TIFF RGBA of 12 in 16", write_tiff(np.insert(paint(3, 4095), 3, 65535, -1), 16, 2, tags={338: [2]})


def list_gifs():
    palette = np.random.default_rng(3).integers(0, 256, (128, 3)).astype(np.uint8)
    indices = paint(1, 127)[..., 0]
    shown = palette[indices]
    yield "GIF", write_gif(indices, palette), shown
    yield "GIF interlaced", write_gif(indices, palette, interlaced=True), shown
    yield "GIF own palette", write_gif(indices, palette, own=True), shown
    yield "GIF of two colours", encode(PHOTO.convert("1"), "GIF"), None
    yield "GIF grey", encode(PHOTO.convert("L"), "GIF"), None
    yield "GIF animated", encode(PHOTO, "GIF", OTHER, PHOTO), None
    hidden = np.where((indices == 60)[..., None], 255, shown)
    comment = b"!\xfe" + b"".join(bytes([99]) + b"!,\0" * 33 for _ in range(30)) + b"\0"
    for own in (False, True):
        name = f"GIF transparent, own palette {own}"
        yield name, write_gif(indices, palette, transparent=60, own=own), hidden
        yield f"{name}, behind comments", write_gif(indices, palette, None, (0, 0), 60, own, comment), hidden
    yield "GIF transparent outside its palette", write_gif(indices, palette, transparent=200), shown
    yield "GIF nothing of which is transparent", write_gif(np.minimum(indices, 99), palette, transparent=100), None
    yield "GIF all transparent", write_gif(0 * indices, palette, transparent=0), np.full_like(shown, 255)
    yield "GIF of Pillow, transparent", encode(CUT_OUT, "GIF"), None
    yield "GIF animated, transparent", encode(CUT_OUT, "GIF", CUT_OUT.rotate(90), CUT_OUT), None
    for transparent in (None, 60):
        canvas = np.full((HEIGHT + 30, WIDTH + 20, 3), 255, np.uint8)
        canvas[11 : 11 + HEIGHT, 7 : 7 + WIDTH] = shown if transparent is None else hidden
        content = write_gif(indices, palette, (WIDTH + 20, HEIGHT + 30), (7, 11), transparent)
        # Around a first frame browsers show the page; Pillow shows the first colour, unless one is transparent.
        yield f"GIF partial first frame, transparent {transparent}", content, canvas
    larger = write_gif(indices, palette, (5, 5))
    yield "GIF larger than its canvas", larger, shown
    second = encode(OTHER.resize((90, 80)), "GIF")
    yield "GIF whose second frame is larger", larger[:-1] + second[second.index(b",", 13 + 768) :], None


def list_bmps():
    shades = np.arange(256).repeat(4).astype(np.uint8).reshape(256, 4) * (1, 1, 1, 0)
    colours = np.random.default_rng(4).integers(0, 256, (256, 4)).astype(np.uint8) * (1, 1, 1, 0)
    for bits in (1, 4, 8):
        indices = paint(1, 2**bits - 1)
        for name, table in {"palette": colours, "grey": shades[:: 256 // 2**bits]}.items():
            palette = table[: 2**bits].astype(np.uint8)
            rows = pack_rows(indices[::-1], bits)
            shown = palette[indices[..., 0], 2::-1]
            yield f"BMP {name} {bits}", write_bmp(rows, WIDTH, HEIGHT, bits, palette.tobytes()), shown
            rows = pack_rows(indices, bits)
            yield f"BMP {name} {bits} top-down", write_bmp(rows, WIDTH, -HEIGHT, bits, palette.tobytes()), shown
    palette, indices = colours.astype(np.uint8), paint(1, 255)[..., 0]
    runs = b"".join(b"".join(bytes([1, n]) for n in row) + b"\0\0" for row in indices[::-1]) + b"\0\1"
    yield "BMP RLE8", write_bmp([runs], WIDTH, HEIGHT, 8, palette.tobytes(), 1), palette[indices, 2::-1]
    indices = paint(1, 15)[..., 0]
    runs = b"".join(b"".join(bytes([1, n << 4]) for n in row) + b"\0\0" for row in indices[::-1]) + b"\0\1"
    yield "BMP RLE4", write_bmp([runs], WIDTH, HEIGHT, 4, palette[:16].tobytes(), 2), palette[indices, 2::-1]
    picture = paint()[..., ::-1].astype(np.uint8)  # blue, green, red
    shown = picture[..., ::-1]
    alpha = paint(1, seed=1).astype(np.uint8)
    for height, order in ((HEIGHT, -1), (-HEIGHT, 1)):
        yield f"BMP 24 {height}", write_bmp([row.tobytes() for row in picture[::order]], WIDTH, height, 24), shown
        rows = [row.tobytes() for row in np.concatenate([picture, alpha], -1)[::order]]
        yield f"BMP 32 {height}", write_bmp(rows, WIDTH, height, 32), shown
        masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
        content = write_bmp(rows, WIDTH, height, 32, compression=3, masks=masks, header=124)
        yield f"BMP 32 with alpha {height}", content, on_white(shown.astype(int), alpha, 255)
    rows = [row.tobytes() for row in np.concatenate([picture, 0 * alpha], -1)[::-1]]
    yield (
        "BMP 32 whose alpha is empty",
        write_bmp(rows, WIDTH, HEIGHT, 32, compression=3, masks=masks, header=124),
        shown,
    )
    masks = struct.pack("<3I", 0xFF0000, 0xFF00, 0xFF)
    yield "BMP 32 with masks", write_bmp(rows, WIDTH, HEIGHT, 32, compression=3, masks=masks, header=56), shown
    yield "BMP of OS/2", write_bmp([row.tobytes() for row in picture[::-1]], WIDTH, HEIGHT, 24, header=12), shown
    blue, green, red = (picture[::-1, :, n].astype(np.uint16) for n in range(3))
    packed = (red >> 3 << 10) | (green >> 3 << 5) | blue >> 3
    yield "BMP 16", write_bmp([row.tobytes() for row in packed], WIDTH, HEIGHT, 16), None
    packed = (red >> 3 << 11) | (green >> 2 << 5) | blue >> 3
    masks = struct.pack("<3I", 0xF800, 0x7E0, 0x1F)
    content = write_bmp([row.tobytes() for row in packed], WIDTH, HEIGHT, 16, compression=3, masks=masks, header=56)
    yield "BMP 16 with masks", content, None


def list_webps():
    for name, image in {"": PHOTO, " with alpha": CUT_OUT}.items():
        yield f"WebP{name}", encode(image, "WEBP", quality=90), None
        yield f"WebP lossless{name}", encode(image, "WEBP", lossless=True, exact=True), None
        yield f"WebP animated{name}", encode(image, "WEBP", image.rotate(180), lossless=True), None
    for number in range(1, 9):
        exif = b"Exif\0\0" * (number % 2) + turned(number)
        yield f"WebP EXIF {number}", encode(PHOTO, "WEBP", lossless=True, exif=exif, icc_profile=b"p" * 999), None


def list_tiffs():
    for order in "<>":
        for depth in (1, 2, 4, 8, 16):
            high = 2**depth - 1
            grey = paint(1, high)
            yield f"TIFF grey {depth} {order}", write_tiff(grey, depth, 1, order), on_white(grey, high, high)
            yield (
                f"TIFF white is zero {depth} {order}",
                write_tiff(high - grey, depth, 0, order),
                on_white(grey, high, high),
            )
        for depth in (8, 16):
            high = 2**depth - 1
            colour, alpha = paint(3, high), paint(1, high, seed=1)
            yield f"TIFF RGB {depth} {order}", write_tiff(colour, depth, 2, order), on_white(colour, high, high)
            shown, both = on_white(colour, alpha, high), np.concatenate([colour, alpha], -1)
            yield f"TIFF alpha {depth} {order}", write_tiff(both, depth, 2, order, {338: [2]}), shown
            both = np.concatenate([colour * alpha // high, alpha], -1)
            yield f"TIFF associated alpha {depth} {order}", write_tiff(both, depth, 2, order, {338: [1]}), shown
            both = np.concatenate([colour, alpha], -1)
            content = write_tiff(both, depth, 2, order, {338: [0]})
            yield f"TIFF unknown fourth channel {depth} {order}", content, on_white(colour, high, high)
            ink = np.concatenate([high - colour, 0 * alpha], -1)
            yield f"TIFF CMYK {depth} {order}", write_tiff(ink, depth, 5, order), on_white(colour, high, high)
        yield f"TIFF of floats {order}", write_tiff(paint(1) / 255, 32, 1, order, {339: [3]}, kind="f"), None
        yield f"TIFF of 32 bits {order}", write_tiff(paint(1, 2**32 - 1), 32, 1, order), None
        yield f"TIFF of signed 16 bits {order}", write_tiff(paint(1, 2**15 - 1), 16, 1, order, {339: [2]}), None
    both = np.concatenate([paint(1), paint(1, seed=1)], -1)
    yield "TIFF grey with alpha", write_tiff(both, 8, 1, "<", {338: [2]}), on_white(paint(1), paint(1, seed=1), 255)
    palette = np.random.default_rng(5).integers(0, 256, (3, 256))
    content = write_tiff(paint(1), 8, 3, "<", {320: (palette * 257).reshape(-1)})
    yield "TIFF palette", content, palette.T[paint(1)[..., 0]].astype(np.uint8)
    for depth, tile in ((8, 16), (1, 16)):
        high = 2**depth - 1
        grey = paint(1, high)
        yield f"TIFF tiled {depth}", write_tiff(grey, depth, 1, tile=tile), on_white(grey, high, high)
    yield "TIFF tiled RGB", write_tiff(paint(), 8, 2, tile=32), np.asarray(PHOTO)
    for depth in (8, 16):
        high = 2**depth - 1
        content = write_tiff(paint(3, high), depth, 2, planar=True)
        yield f"TIFF separate planes {depth}", content, on_white(paint(3, high), high, high)
    for number in range(1, 9):
        yield f"TIFF orientation {number}", write_tiff(paint(), 8, 2, "<>"[number % 2], {274: [number]}), None
        yield (
            f"TIFF packed, orientation {number}",
            encode(PHOTO, "TIFF", compression="tiff_lzw", tiffinfo={274: number}),
            None,
        )
    deep = 65535 - paint(1, 65535)
    content, shown = write_tiff(deep, 16, 0, "<", {274: [6]}), on_white(65535 - deep, 65535, 65535)
    yield "TIFF white is zero 16, turned", content, np.rot90(shown, -1)
    for name in ("tiff_lzw", "tiff_deflate", "tiff_adobe_deflate", "packbits", "jpeg", "lzma", "zstd"):
        yield f"TIFF {name}", encode(PHOTO, "TIFF", compression=name), None
        if name != "jpeg":
            yield f"TIFF {name} with alpha", encode(CUT_OUT, "TIFF", compression=name), None
    for name in ("group3", "group4", "tiff_ccitt"):
        yield f"TIFF {name}", encode(PHOTO.convert("1"), "TIFF", compression=name), None
        yield (
            f"TIFF {name} white is zero",
            encode(PHOTO.convert("1"), "TIFF", compression=name, tiffinfo={262: 0}),
            None,
        )
    yield "TIFF LZW predicted", encode(PHOTO, "TIFF", compression="tiff_lzw", tiffinfo={317: 2}), None
    yield (
        "TIFF LZW 16",
        encode(Image.fromarray(paint(1, 65535)[..., 0].astype(np.uint16)), "TIFF", compression="tiff_lzw"),
        (on_white(paint(1, 65535), 65535, 65535)),
    )
    yield "TIFF of three pages", encode(PHOTO, "TIFF", OTHER, PHOTO), None
    yield "TIFF large", encode(PHOTO, "TIFF", big_tiff=True), None
    lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    yield "TIFF LAB", encode(ImageCms.applyTransform(PHOTO, lab), "TIFF"), None
    yield "TIFF RGB LZW 16", _lzw_rgb16(), on_white(paint(3, 65535), 65535, 65535)


def _lzw_rgb16():
    """Return a 16-bit RGB TIFF whose one strip is deflated."""
    plain = write_tiff(paint(3, 65535), 16, 2)
    size = WIDTH * HEIGHT * 6
    packed = zlib.compress(plain[8 : 8 + size])
    content = plain[:8] + packed.ljust(size, b"\0") + plain[8 + size :]
    return content.replace(struct.pack("<HHIHH", 259, 3, 1, 1, 0), struct.pack("<HHIHH", 259, 3, 1, 8, 0)).replace(
        struct.pack("<HHII", 279, 4, 1, size), struct.pack("<HHII", 279, 4, 1, len(packed))
    )


def list_files():
    """Yield (name, content, expected pixels uint8[H, W, 3] or None for what Pillow sees) of every file."""
    for kinds in (list_jpegs, list_pngs, list_gifs, list_bmps, list_webps, list_tiffs):
        yield from kinds()
    for name, content in list_dark():
        yield name, content, np.zeros((HEIGHT, WIDTH, 3), np.uint8)
