import base64
import io
import struct
import tracemalloc

import numpy as np
import pytest
from PIL import Image
from toys import ingest, paint_images, refusal

from components.images.thumbnail import THUMBNAIL, make_thumbnail
from components.run_dir import RunDir
from components.shards.pictures import SMALL, collect_pictures, read_thumbnails


def encode(image, kind="PNG", **how):
    buffer = io.BytesIO()
    image.save(buffer, kind, **how)
    return buffer.getvalue()


def noise(width, height):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize(
    "size, expected", [((400, 200), (160, 80)), ((30, 320), (15, 160)), ((100, 90), (100, 90)), ((8, 4), (160, 80))]
)
def test_the_longer_side_has_the_size_of_thumbnails_and_small_images_are_enlarged(size, expected):
    assert make_thumbnail(encode(noise(*size))).size == expected


def test_an_enlarged_image_keeps_its_pixels():
    image = noise(8, 8)
    np.testing.assert_array_equal(np.asarray(make_thumbnail(encode(image)))[::20, ::20], np.asarray(image))


def test_a_thumbnail_is_upright_and_of_three_colours():
    exif = Image.Exif()
    exif[274] = 6
    thumbnail = make_thumbnail(encode(noise(320, 100).convert("L"), "JPEG", exif=exif))
    assert thumbnail.size == (50, THUMBNAIL) and thumbnail.mode == "RGB"


@pytest.mark.parametrize("content", [b"", b"\xff\xd8\xff no more", encode(noise(50, 50))[:400]])
def test_what_pillow_does_not_read_has_none(content):
    assert make_thumbnail(content) is None


def share_tags(tags, size):
    """Return the TIFF structure of EXIF whose many tags all have the same bytes as value."""
    entries = b"".join(struct.pack("<HHII", 1000 + tag, 7, size, 14 + 12 * tags) for tag in range(tags))
    return b"II*\0" + struct.pack("<IH", 8, tags) + entries + bytes(4 + size)


@pytest.mark.parametrize("junk", [b"", b"\xff", b"\xff\xfe\0\4ab\0\0", b"\xff\xd0"])
def test_exif_is_not_unpacked_whatever_stands_before_it(junk):
    exif = share_tags(200, 2**20)
    parts = [b"Exif\0\0" + exif[start : start + 60000] for start in range(0, len(exif), 60000)]
    content = encode(noise(320, 160), "JPEG")
    segments = b"".join(b"\xff\xe1" + struct.pack(">H", len(part) + 2) + part for part in parts)
    tracemalloc.start()
    assert make_thumbnail(content[:2] + junk + segments + content[2:]).size == (160, 80)
    assert tracemalloc.get_traced_memory()[1] < 20 * 2**20
    tracemalloc.stop()


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_colours_are_the_same_without_what_else_a_jpeg_holds(mode):
    image = noise(100, 90).convert(mode)
    content = encode(image, "JPEG", icc_profile=b"profile" * 20000, comment=b"words", xmp=b"words")
    with Image.open(io.BytesIO(content)) as opened:
        np.testing.assert_array_equal(np.asarray(make_thumbnail(content)), np.asarray(opened.convert("RGB")))


def test_what_is_transparent_is_white():
    image = Image.new("RGBA", (100, 90), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (20, 20, 60, 60))
    for kind in ("PNG", "GIF"):
        thumbnail = make_thumbnail(encode(image, kind))
        assert thumbnail.getpixel((5, 5)) == (255, 255, 255) and thumbnail.getpixel((40, 40)) == (0, 0, 0)


@pytest.mark.filterwarnings("error")
def test_pillows_limit_of_pixels_is_the_applications_own(monkeypatch):
    content = encode(noise(320, 160), "JPEG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert make_thumbnail(content).size == (160, 80)
    assert Image.MAX_IMAGE_PIXELS == 10


def test_a_gif_of_a_huge_canvas_has_none():
    content = bytearray(encode(noise(8, 8), "GIF"))
    assert make_thumbnail(bytes(content)).size == (160, 160)
    content[6:10] = struct.pack("<HH", 60000, 60000)
    assert make_thumbnail(bytes(content)) is None


def test_images_are_found_by_key_in_all_splits(tmp_path, options):
    rows = []
    for number in range(24):
        Image.new("RGB", (200, 100), (number * 10, 0, 0)).save(tmp_path / f"{number}.png")
        rows.append(f"{number}.png,{'ab'[number % 2]},{'train' if number < 16 else 'val' if number < 20 else 'test'}\n")
    (tmp_path / "images.csv").write_text("path,label,split\n" + "".join(rows))
    run = RunDir(tmp_path / "run")
    examples = ingest(tmp_path / "images.csv", run, options, shards=3)
    keys = {f"{number}.png" for number in (3, 17, 19, 21)} | {"none.png"}
    found = dict(read_thumbnails(keys, run.examples, examples.shards))
    assert {key: image.getpixel((80, 40))[0] for key, image in found.items()} == {
        f"{number}.png": 10 * number for number in (3, 17, 19, 21)
    }
    assert not [*read_thumbnails({"none.png"}, run.examples, examples.shards)]
    for file in run.examples.glob("test-*"):
        file.unlink()  # no image that is asked for lies there
    assert dict(read_thumbnails({"17.png", "3.png"}, run.examples, examples.shards)).keys() == {
        "17.png",
        "3.png",
    }
    for file in run.examples.glob("val-*"):
        file.unlink()
    assert "val-" in refusal(list, read_thumbnails(keys, run.examples, examples.shards))


def open_uri(uri):
    return Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/jpeg;base64,"))))


def test_pictures_come_large_before_small_within_the_budget(tmp_path, options, monkeypatch):
    run = RunDir(tmp_path / "run")
    examples = ingest(paint_images(tmp_path / "images", per_class=12), run, options)
    keys = sorted(line.split(",")[0] for line in run.images.read_text().splitlines()[1:])
    large, small = keys[:3], [*keys[2:20], "no/such.jpg"]
    pictures = collect_pictures(large, small, run.examples, examples.shards)
    assert pictures.keys() == set(keys[:20])
    assert all(max(open_uri(pictures[key]).size) > SMALL for key in large)
    assert all(max(open_uri(pictures[key]).size) <= SMALL < THUMBNAIL for key in small[1:-1])

    budget = sum(len(pictures[key]) for key in keys[:7])
    monkeypatch.setattr("components.shards.pictures.BUDGET", budget)
    fewer = collect_pictures(large, small, run.examples, examples.shards)
    assert set(keys[:7]) <= fewer.keys() and sum(map(len, fewer.values())) <= budget

    monkeypatch.setattr("components.shards.pictures.MAX_SMALL", 2)
    assert collect_pictures(large, small, run.examples, examples.shards).keys() == set(keys[:5])
