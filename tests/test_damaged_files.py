"""Thousands of damaged images of every format go through ingest: each is written or rejected, nothing falls over."""

import io
import itertools
import json
import random
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from toys import ingest

from components import features
from components.images.stored_pixels import decode_stored
from components.run_dir import RunDir

FILES = 3000
CLASSES = ("cat", "dog", "emu")


def encode(image, kind, **settings):
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


def make_healthy() -> dict[str, bytes]:
    """Return small images of every format and kind that ingest takes."""
    generator = np.random.default_rng(0)
    smooth = Image.fromarray(generator.integers(0, 255, (6, 8, 3)).astype(np.uint8)).resize((45, 33))
    other = smooth.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    deep = Image.fromarray(np.asarray(smooth.convert("L")).astype(np.uint16) * 257)
    exif = Image.Exif()
    exif.update({0x010F: "maker", 0x0112: 6, 0x0131: "program"})
    modes = {mode: smooth.convert(mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK")}
    animated = {"save_all": True, "append_images": [other, smooth]}
    return {
        "baseline.jpeg": encode(smooth, "JPEG"),
        "progressive.jpeg": encode(smooth, "JPEG", progressive=True),
        "grey.jpeg": encode(modes["L"], "JPEG"),
        "cmyk.jpeg": encode(modes["CMYK"], "JPEG"),
        "exif.jpeg": encode(smooth, "JPEG", exif=exif),
        "restarts.jpeg": encode(smooth, "JPEG", restart_marker_blocks=2, subsampling=0),
        **{f"{mode}.png": encode(modes[mode], "PNG") for mode in ("1", "L", "LA", "P", "RGB", "RGBA")},
        "16.png": encode(deep, "PNG"),
        "still.gif": encode(smooth, "GIF"),
        "animated.gif": encode(smooth, "GIF", **animated),
        **{f"{mode}.bmp": encode(modes[mode], "BMP") for mode in ("1", "L", "P", "RGB", "RGBA")},
        "lossy.webp": encode(smooth, "WEBP"),
        "lossless.webp": encode(smooth, "WEBP", lossless=True),
        "alpha.webp": encode(modes["RGBA"], "WEBP", exif=exif.tobytes()),
        "animated.webp": encode(smooth, "WEBP", **animated),
        **{f"{mode}.tiff": encode(modes[mode], "TIFF") for mode in ("1", "L", "P", "RGB", "RGBA", "CMYK")},
        "16.tiff": encode(deep, "TIFF"),
        "pages.tiff": encode(smooth, "TIFF", **animated),
        "big.tiff": encode(smooth, "TIFF", big_tiff=True),
        **{f"{name}.tiff": encode(smooth, "TIFF", compression=name) for name in ("tiff_lzw", "tiff_deflate", "jpeg")},
        "fax.tiff": encode(modes["1"], "TIFF", compression="group4"),
    }


def find_sizes(content: bytes) -> list[tuple[int, str]]:
    """Return where a healthy image holds widths and heights, as (offset, struct format)."""
    if content.startswith(b"\xff\xd8"):
        frame = next(content.index(marker) for marker in (b"\xff\xc0", b"\xff\xc2") if marker in content)
        return [(frame + 5, ">H"), (frame + 7, ">H")]
    if content.startswith(b"\x89PNG"):
        return [(16, ">I"), (20, ">I")]
    if content.startswith(b"GIF"):
        frame = content.index(b",\0\0\0\0")
        return [(6, "<H"), (8, "<H"), (frame + 5, "<H"), (frame + 7, "<H")]
    if content.startswith(b"BM"):
        return [(18, "<i"), (22, "<i"), (10, "<i"), (28, "<H")]
    if content.startswith(b"RIFF"):
        return {
            b"VP8 ": [(26, "<H"), (28, "<H")],
            b"VP8L": [(21, "<H"), (22, "<H"), (23, "<H")],
            b"VP8X": [(24, "<H"), (27, "<H"), (25, "<H"), (28, "<H")],
        }[content[12:16]]
    # A TIFF: any value of any tag, widths, heights, strips and counts among them.
    if content[2:4] == b"+\0":
        (directory,) = struct.unpack_from("<Q", content, 8)
        return [(directory + 8 + 20 * tag + at, "<I") for tag in range(12) for at in (4, 12)]
    (directory,) = struct.unpack_from("<I", content, 4)
    return [(directory + 2 + 12 * tag + at, "<I") for tag in range(10) for at in (4, 8)]


def lie_about_size(content: bytes, chance: random.Random) -> bytes:
    damaged = bytearray(content)
    for offset, kind in chance.sample(find_sizes(content), chance.choice((1, 1, 2))):
        if offset + struct.calcsize(kind) > len(content):
            continue
        (true,) = struct.unpack_from(kind, content, offset)
        most = {"H": 0xFFFF, "I": 0xFFFFFFFF, "i": 0x7FFFFFFF}[kind[-1]]
        value = chance.choice((0, 1, true - 1, true + 1, true * 2, most // 2, most - 1, most))
        struct.pack_into(kind, damaged, offset, max(0, min(value, most)))
    if content.startswith(b"\x89PNG"):  # without its sum the lie would be found out at once
        struct.pack_into(">I", damaged, 29, zlib.crc32(damaged[12:29]))
    return bytes(damaged)


def truncate(content: bytes, chance: random.Random) -> bytes:
    return content[: chance.randrange(len(content))]


def flip_bits(content: bytes, chance: random.Random) -> bytes:
    damaged = bytearray(content)
    for _ in range(chance.choice((1, 1, 3, 20))):
        damaged[chance.randrange(chance.choice((min(40, len(content)), len(content))))] ^= 1 << chance.randrange(8)
    return bytes(damaged)


def overwrite(content: bytes, chance: random.Random) -> bytes:
    start = chance.randrange(len(content))
    count = min(chance.choice((1, 2, 4, 16, 100)), len(content) - start)
    filler = chance.choice((b"\0" * count, b"\xff" * count, chance.randbytes(count)))
    return content[:start] + filler + content[start + count :]


def insert(content: bytes, chance: random.Random) -> bytes:
    start = chance.randrange(len(content))
    return content[:start] + chance.randbytes(chance.choice((1, 4, 50))) + content[start:]


def delete(content: bytes, chance: random.Random) -> bytes:
    start = chance.randrange(len(content))
    return content[:start] + content[start + chance.choice((1, 4, 50)) :]


DAMAGES = (truncate, flip_bits, overwrite, insert, delete, lie_about_size)


def swap_header(content: bytes, other: bytes, chance: random.Random) -> bytes:
    length = chance.choice((4, 8, 16, 64))
    return other[:length] + content[length:]


def damage_images(count: int, seed: int):
    """Yield count times (name, damaged content), every kind of image and of damage in turn."""
    chance = random.Random(seed)
    healthy = make_healthy()
    for number, (name, content) in zip(range(count), itertools.cycle(healthy.items())):
        kind = number // len(healthy) % (len(DAMAGES) + 1)
        if kind == len(DAMAGES):
            damaged = swap_header(content, chance.choice(list(healthy.values())), chance)
        else:
            damaged = DAMAGES[kind](content, chance)
            if chance.random() < 0.2:
                damaged = chance.choice(DAMAGES[:-1])(damaged or content, chance)
        yield f"{number:05d}-{name}", damaged


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow warns of what it then raises for
def test_every_damaged_file_is_written_as_an_image_or_rejected(tmp_path, options):
    healthy = {
        f"{CLASSES[number % 3]}/{name}": content for number, (name, content) in enumerate(make_healthy().items())
    }
    damaged = {
        f"{CLASSES[number % 3]}/{name}": content for number, (name, content) in enumerate(damage_images(FILES, 0))
    }
    for key, content in {**healthy, **damaged}.items():
        path = tmp_path / "images" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    run = RunDir(tmp_path / "run")
    # Some damage leaves a file as it was: copies are kept, so that no healthy one gives way to its own.
    rules = {"max_pixels": 10**6, "max_reject_share": 1.0, "duplicates": "keep"}
    outcome = ingest(tmp_path / "images", run, options, **rules)

    assert outcome.found == len(healthy) + FILES == outcome.written + outcome.rejected
    rejects = {json.loads(line)["key"] for line in run.rejects.read_text().splitlines()}
    files = [str(file) for file in run.examples.glob("*.tfrecord")]
    records = [tf.train.Example.FromString(record) for record in tf.data.TFRecordDataset(files).as_numpy_iterator()]
    written, decode = set(), tf.function(decode_stored)
    for record in records:
        value = {name: (f.bytes_list.value or f.int64_list.value)[0] for name, f in record.features.feature.items()}
        shape = decode(tf.constant(value[features.ENCODED])).shape
        assert shape == (value[features.HEIGHT], value[features.WIDTH], 3)
        written.add(value[features.KEY].decode())
    assert len(records) == outcome.written == len(written)
    assert written | rejects == {*healthy, *damaged}
    assert set(healthy) <= written
    assert min(outcome.written, outcome.rejected) > FILES // 10
