import errno
import hashlib
import io
import os
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
import tensorflow as tf
from image_writers import write_tiff
from PIL import Image, ImageOps
from toys import shared_data

from components.images import check as images
from components.images.check import Limits, RejectedImage, check_image, make_readable, read_file
from components.images.formats import is_cut_off
from components.storage import reading

LIMITS = Limits()
PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 255, (7, 9, 3)).astype(np.uint8)).resize((45, 33))
GREY16 = np.random.default_rng(1).integers(0, 2**16, (33, 45)).astype(np.uint16)
ANIMATED = {"save_all": True, "append_images": [PHOTO.rotate(180), PHOTO]}


def encode(image, kind, **settings):
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def decode(content):
    return tf.io.decode_image(content, channels=3, expand_animations=False).numpy()


def open_rgb(content):
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB"))


def rejection(function, *arguments):
    """Return the reason and the detail, which must be one short line without TensorFlow's own names."""
    with pytest.raises(RejectedImage) as caught:
        function(*arguments)
    reason, detail = caught.value.args
    assert 0 < len(detail) < 250
    assert not any(noise in detail for noise in ("\n", "[Op:", "{{", " at 0x"))
    return reason, detail


JPEGS = {
    "baseline": encode(PHOTO, "JPEG"),
    "progressive": encode(PHOTO, "JPEG", progressive=True),
    "grey": encode(PHOTO.convert("L"), "JPEG"),
    "CMYK": encode(PHOTO.convert("CMYK"), "JPEG"),
    "two pictures": encode(PHOTO, "MPO", save_all=True, append_images=[PHOTO.rotate(180)]),
}
KEPT = {
    **{f"{mode} PNG": encode(PHOTO.convert(mode), "PNG") for mode in ("1", "L", "LA", "P", "RGB", "RGBA")},
    "GIF": encode(PHOTO, "GIF"),
    "animated GIF": encode(PHOTO, "GIF", **ANIMATED),
    "24-bit BMP": encode(PHOTO, "BMP"),
    "32-bit BMP": encode(PHOTO.convert("RGBA"), "BMP"),
}
TRANSCODED = {
    "lossy WebP": encode(PHOTO, "WEBP"),
    "lossless WebP": encode(PHOTO, "WEBP", lossless=True),
    "WebP with alpha": encode(PHOTO.convert("RGBA"), "WEBP", lossless=True),
    "animated WebP": encode(PHOTO, "WEBP", lossless=True, **ANIMATED),
    **{f"{mode} TIFF": encode(PHOTO.convert(mode), "TIFF") for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK")},
    **{f"{name} TIFF": encode(PHOTO, "TIFF", compression=name) for name in ("tiff_lzw", "tiff_deflate", "jpeg")},
    "fax TIFF": encode(PHOTO.convert("1"), "TIFF", compression="group4"),
    "TIFF of three pages": encode(PHOTO, "TIFF", **ANIMATED),
    "BigTIFF": encode(PHOTO, "TIFF", big_tiff=True),
    **{f"{mode} BMP": encode(PHOTO.convert(mode), "BMP") for mode in ("1", "L", "P")},
    "BMP with bytes behind": encode(PHOTO, "BMP") + b"\0\0",
}


MANY = ("two pictures", "animated GIF", "TIFF of three pages")

# Pillow warns of what it then raises for; topgraft itself shows no warnings.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.mark.parametrize("content", [*JPEGS.values(), *KEPT.values()], ids=[*JPEGS, *KEPT])
def test_content_that_tensorflow_reads_is_kept_unchanged(content):
    checked = check_image(content, LIMITS)
    assert checked.encoded is content
    assert checked.format == checked.found_format
    assert checked.sha256 == hashlib.sha256(content).hexdigest()
    assert (checked.height, checked.width) == decode(content).shape[:2] == (33, 45)
    assert checked.orientation == 1
    with Image.open(io.BytesIO(content)) as image:
        assert checked.format == {"MPO": "jpeg"}.get(image.format, image.format.lower())


@pytest.mark.parametrize("content", KEPT.values(), ids=KEPT)
def test_tensorflow_and_pillow_decode_kept_content_to_the_same_pixels(content):
    np.testing.assert_array_equal(decode(check_image(content, LIMITS).encoded), open_rgb(content))


@pytest.mark.parametrize("content", TRANSCODED.values(), ids=TRANSCODED)
def test_content_that_tensorflow_misreads_becomes_a_png_with_exactly_its_pixels(content):
    checked = check_image(content, LIMITS)
    assert checked.encoded == make_readable(content, LIMITS) != content
    with Image.open(io.BytesIO(content)) as image:
        assert (checked.format, checked.found_format) == ("png", image.format.lower())
    assert checked.sha256 == hashlib.sha256(content).hexdigest()
    assert (checked.height, checked.width) == (33, 45)
    np.testing.assert_array_equal(decode(checked.encoded), open_rgb(content))


def test_16_bit_grey_stays_16_bit():
    contents = [encode(Image.fromarray(GREY16.astype(order)), "TIFF") for order in ("<u2", ">u2")]
    for content in [encode(Image.fromarray(GREY16), "PNG"), *contents]:
        encoded = check_image(content, LIMITS).encoded
        decoded = tf.io.decode_image(encoded, dtype=tf.uint16, expand_animations=False)
        np.testing.assert_array_equal(decoded[..., 0], GREY16)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_webp_and_tiff_are_set_upright_as_pillow_does(orientation):
    contents = [encode(PHOTO, "TIFF", exif=turned(orientation))]
    for prefix in (b"Exif\0\0", b""):
        exif = prefix + turned(orientation).tobytes().removeprefix(b"Exif\0\0")
        contents.append(encode(PHOTO, "WEBP", lossless=True, exif=exif))
    for content in contents:
        checked = check_image(content, LIMITS)
        with Image.open(io.BytesIO(content)) as image:
            np.testing.assert_array_equal(decode(checked.encoded), np.asarray(ImageOps.exif_transpose(image)))
        assert checked.orientation == orientation


def test_a_checked_jpeg_has_its_orientation_and_the_size_of_its_stored_pixels():
    checked = check_image(encode(PHOTO, "JPEG", exif=turned(6)), LIMITS)
    assert (checked.height, checked.width, checked.orientation) == (33, 45, 6)


def test_the_png_carries_neither_profile_nor_exif():
    content = encode(PHOTO, "WEBP", icc_profile=b"profile" * 20, exif=turned(3))
    with Image.open(io.BytesIO(make_readable(content, LIMITS))) as image:
        assert not {"icc_profile", "exif"} & set(image.info)


def test_a_webp_with_damaged_exif_is_taken_as_it_is():
    content = encode(PHOTO, "WEBP", lossless=True, exif=b"Exif\0\0no tiff at all")
    np.testing.assert_array_equal(decode(check_image(content, LIMITS).encoded), np.asarray(PHOTO))


@pytest.mark.parametrize("content", [*JPEGS.values(), *KEPT.values(), b"", b"words", b"BM", b"\xff\xd8\xff no"])
def test_make_readable_leaves_all_else_alone(content):
    assert make_readable(content, LIMITS) is content


@pytest.mark.parametrize("suffix", ["png", "txt", ""])
def test_the_name_of_a_file_does_not_matter(tmp_path, suffix):
    path = tmp_path / f"image.{suffix}"
    path.write_bytes(JPEGS["grey"])
    assert check_image(read_file(str(path), LIMITS), LIMITS).format == "jpeg"


def jpeg_of(width, height):
    content = bytearray(JPEGS["progressive"])
    struct.pack_into(">HH", content, content.index(b"\xff\xc2") + 5, height, width)
    return bytes(content)


def png_of(width, height):
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    content = KEPT["RGB PNG"]
    return content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]


def gif_of(*sizes):
    frames = [b",\0\0\0\0" + struct.pack("<HH", *size) + b"\0\x02\x02\x4c\x01\0" for size in sizes]
    return b"GIF89a\x01\0\x01\0\x80\0\0" + bytes(6) + b"!\xfe\x02hi\0" + b"".join(frames) + b";"


def bmp_of(width, height, bits):
    return b"BM" + struct.pack("<IIIIiiHHI", 0, 0, 54, 40, width, height, 1, bits, 0) + bytes(60)


def webp_of(width, height):
    sides = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    frame = bytes(6) + b"\x2c\0\0\x20\0\0" + bytes(4) + TRANSCODED["lossless WebP"][12:]
    chunks = {b"VP8X": b"\x02\0\0\0" + sides, b"ANIM": bytes(6), b"ANMF": frame}
    body = b"WEBP" + b"".join(name + struct.pack("<I", len(chunk)) + chunk for name, chunk in chunks.items())
    return b"RIFF" + struct.pack("<I", len(body)) + body


def tiff_of(tags):
    """Return a TIFF whose tags {tag: (count, value)} are of 32 bits, before 64 bytes of pixels at 1000."""
    entries = b"".join(struct.pack("<HHII", tag, 4, *field) for tag, field in sorted(tags.items()))
    return (b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries).ljust(1000, b"\0") + bytes(range(64))


def grey_tiff(width, height, **more):
    tags = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: 1000, 277: 1, 278: 8, 279: 64}
    return tiff_of({**{tag: (1, value) for tag, value in tags.items()}, **more.get("tags", {})})


BOMBS = {
    "JPEG": jpeg_of(60000, 60000),
    "PNG": png_of(60000, 60000),
    "GIF": gif_of((60000, 60000)),
    "GIF of many frames": gif_of(*[(3000, 3000)] * 12),
    "GIF of a large canvas": gif_of((60000, 1), (1, 60000)),
    "palette BMP": bmp_of(60000, 60000, 8),
    "WebP": webp_of(16384, 16384),
    "TIFF": grey_tiff(60000, 60000),
}


@pytest.mark.parametrize("content", BOMBS.values(), ids=BOMBS)
def test_too_many_pixels_are_found_in_the_header_without_decoding(monkeypatch, content):
    def fail(*_, **__):
        raise AssertionError("decoded")

    monkeypatch.setattr(tf.io, "decode_image", fail)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)
    reason, detail = rejection(check_image, content, LIMITS)
    assert reason == "too_large"
    assert detail.endswith("more than the 100,000,000 allowed")


@pytest.mark.parametrize("name", [*JPEGS, *KEPT, *TRANSCODED])
def test_the_limit_of_pixels_is_the_users(name):
    content, pixels = {**JPEGS, **KEPT, **TRANSCODED}[name], 45 * 33
    frames, words = (3, " in 3 frames") if name == "animated GIF" else (1, "")
    check_image(content, Limits(max_pixels=frames * pixels))
    assert rejection(check_image, content, Limits(max_pixels=frames * pixels - 1)) == (
        "too_large",
        f"45x33 pixels{words}, more than the {frames * pixels - 1:,} allowed",
    )


PILLOWS = {name: TRANSCODED[name] for name in ("lossy WebP", "animated WebP", "RGB TIFF", "tiff_lzw TIFF", "P BMP")}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("content", PILLOWS.values(), ids=PILLOWS)
def test_pillows_limit_of_pixels_is_left_to_the_application_and_not_asked(monkeypatch, content):
    assert Image.MAX_IMAGE_PIXELS  # that importing has left alone
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert (checked := check_image(content, LIMITS)).height == 33
    assert Image.MAX_IMAGE_PIXELS == 10
    monkeypatch.undo()
    np.testing.assert_array_equal(decode(checked.encoded), open_rgb(content))


def test_a_plain_bmp_that_claims_more_pixels_than_it_has_is_rejected():
    assert rejection(check_image, bmp_of(5000, 5000, 24), LIMITS)[0] == "corrupt"
    assert rejection(check_image, bmp_of(60000, 60000, 24), LIMITS)[0] == "too_large"


def test_a_jpeg_of_thousands_of_scans_is_too_large():
    content = JPEGS["progressive"]
    last = content[content.rindex(b"\xff\xda") : -2]
    assert check_image(content[:-2] + 20 * last + content[-2:], LIMITS).height == 33
    reason, detail = rejection(check_image, content[:-2] + 1001 * last + content[-2:], LIMITS)
    assert (reason, detail) == ("too_large", "more than 1,000 scans")


def test_scans_are_limited_by_the_pixels_that_each_goes_over():
    content = JPEGS["progressive"]
    last = content[content.rindex(b"\xff\xda") : -2]
    assert check_image(content[:-2] + 10 * last + content[-2:], Limits(max_pixels=45 * 33)).height == 33
    reason, detail = rejection(check_image, content[:-2] + 11 * last + content[-2:], Limits(max_pixels=45 * 33))
    assert reason == "too_large"
    assert detail == "21 scans of 45x33 pixels, more than 20 times the 1,485 allowed"


def test_bytes_like_scans_in_segments_and_after_the_end_are_not_counted():
    content, scans = JPEGS["progressive"], b"\xff\xda\0\x08" * 2000
    comment = b"\xff\xfe" + struct.pack(">H", len(scans) + 2) + scans
    assert check_image(content[:2] + comment + content[2:] + scans, LIMITS).height == 33


def png_chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


@pytest.mark.parametrize("kind, head", [(b"zTXt", b"name\0\0"), (b"iTXt", b"name\0\1\0en\0name\0")])
def test_text_of_a_png_that_unpacks_to_much_is_refused_and_other_text_is_not(kind, head):
    content = encode(PHOTO, "PNG")
    text = png_chunk(kind, head + zlib.compress(bytes(2**20)))
    assert check_image(content[:33] + text * 15 + content[33:], LIMITS).height == 33
    reason, detail = rejection(check_image, content[:33] + text * 17 + content[33:], LIMITS)
    assert (reason, detail) == ("too_large", "its text unpacks to more than 16,777,216 bytes")
    damaged = png_chunk(kind, head + b"no zlib")
    assert check_image(content[:33] + damaged + content[33:], LIMITS).height == 33


def test_tags_that_share_their_data_are_not_read():
    shared = {40000 + number: (1000, 0) for number in range(70)}
    assert check_image(grey_tiff(8, 8), LIMITS).height == 8
    reason, detail = rejection(check_image, grey_tiff(8, 8, tags=shared), LIMITS)
    assert (reason, detail) == ("corrupt", "its tags claim more than the file contains")


def test_exif_inside_a_tiff_is_not_read():
    content = grey_tiff(8, 8, tags={34665: (1, 1064)})
    shared = b"".join(struct.pack("<HHII", 40000 + number, 4, 10**6, 2000) for number in range(80))
    bomb = content + struct.pack("<H", 80) + shared + bytes(4 * 10**6 + 2000)
    tracemalloc.start()
    assert check_image(bomb, LIMITS).height == 8
    assert tracemalloc.get_traced_memory()[1] < 20 * 10**6
    tracemalloc.stop()


def test_a_tiff_whose_pixels_end_early_is_corrupt():
    assert rejection(check_image, grey_tiff(8, 800), LIMITS) == ("corrupt", "its pixels end before its last row")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1heic", "HEIC"),
        (encode(PHOTO, "AVIF"), "AVIF"),
        (b"\0\0\0\x20ftypisom\0\0\x02\0isomiso2", "a video"),
        (encode(PHOTO, "JPEG2000"), "JPEG 2000"),
        (b"\xff\x0a\xfa\x1f", "JPEG XL"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b'<?xml version="1.0"?>\n<!-- a drawing -->\n<svg width="1">', "SVG"),
        (b"\xef\xbb\xbf <svg>", "SVG"),
        (encode(PHOTO, "PDF"), "PDF"),
        (b"8BPS\0\x01", "PSD"),
        (encode(PHOTO, "ICO"), "ICO"),
        (b"II*\0\x10\0\0\0CR\x02\0", "a camera's raw file"),
        (grey_tiff(8, 8, tags={254: (1, 1)}), "a camera's raw file"),
    ],
)
def test_formats_that_are_not_read_are_named(content, words):
    assert rejection(check_image, content, LIMITS) == (
        "unsupported",
        f"{words}, which TensorFlow does not read: convert it to JPEG",
    )


@pytest.mark.parametrize("mode", ["I", "F"])
def test_a_tiff_of_32_bits_is_unsupported(mode):
    reason, detail = rejection(check_image, encode(PHOTO.convert(mode), "TIFF"), LIMITS)
    assert reason == "unsupported"
    assert f"mode {mode}" in detail


@pytest.mark.parametrize(
    "content", [b"these are words", b"BMW 320i", b"\0" * 20, b"RIFF\0\0\0\0WAVE", b"\xff", b"GIF88a"]
)
def test_the_first_bytes_of_unknown_content_are_shown(content):
    assert rejection(check_image, content, LIMITS) == ("not_an_image", f"starts with {content[:8]!r}")


@pytest.mark.parametrize("name", [name for name in (*JPEGS, *KEPT, *TRANSCODED) if name not in MANY])
def test_a_file_cut_off_anywhere_is_rejected(name):
    content = {**JPEGS, **KEPT, **TRANSCODED}[name]
    for length in (8, 20, 30, 60, len(content) // 2, len(content) - 100):
        assert rejection(check_image, content[:length], LIMITS)[0] in ("corrupt", "not_an_image")


@pytest.mark.parametrize("name", JPEGS)
def test_a_jpeg_that_is_found_to_be_cut_off_is_one_that_tensorflow_refuses(name):
    content = JPEGS[name]
    assert not is_cut_off(content)
    for length in range(3, len(content)):
        if is_cut_off(content[:length]):
            with pytest.raises(tf.errors.InvalidArgumentError):
                decode(content[:length])
    assert is_cut_off(content[:100]) and is_cut_off(content[:-2]) == (name == "progressive")


@pytest.mark.parametrize("name", ["baseline", "progressive"])
def test_libjpeg_says_nothing_of_a_jpeg_that_is_cut_off(name, capfd):
    content = JPEGS[name]
    for length in (60, len(content) // 4, len(content) // 2):
        rejection(check_image, content[:length], LIMITS)
    assert "JPEG library" not in capfd.readouterr().err


@pytest.mark.parametrize("name", ["two pictures", "TIFF of three pages"])
def test_the_first_picture_is_enough(name):
    content = {**JPEGS, **TRANSCODED}[name]
    whole, cut = (check_image(part, LIMITS) for part in (content, content[: len(content) * 3 // 4]))
    np.testing.assert_array_equal(decode(whole.encoded), decode(cut.encoded))


def test_bytes_are_limited_before_reading(tmp_path, monkeypatch):
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(LIMITS.max_bytes + 1)
    monkeypatch.setattr("builtins.open", None)
    assert rejection(read_file, str(path), LIMITS) == (
        "too_large",
        "67,108,865 bytes, more than the 67,108,864 allowed",
    )
    assert rejection(check_image, b"words", Limits(max_bytes=4))[0] == "too_large"


def test_an_empty_file_is_empty(tmp_path):
    (tmp_path / "x").touch()
    assert rejection(read_file, str(tmp_path / "x"), LIMITS) == ("empty", "0 bytes")
    assert rejection(check_image, b"", LIMITS) == ("empty", "0 bytes")


def test_a_path_that_is_not_a_readable_file_is_rejected(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name in ("pipe", "folder", "loop", "gone"):
        assert rejection(read_file, str(tmp_path / name), LIMITS)[0] == "unreadable"
    assert rejection(read_file, "/dev/zero", LIMITS) == ("unreadable", "not a regular file")


def test_a_url_is_read_by_tensorflow():
    tf.io.gfile.GFile("ram://images/x.jpg", "wb").write(JPEGS["grey"])
    assert read_file("ram://images/x.jpg", LIMITS) == JPEGS["grey"]
    assert rejection(read_file, "ram://images/x.jpg", Limits(max_bytes=10))[0] == "too_large"
    assert rejection(read_file, "ram://images/none.jpg", LIMITS)[0] == "unreadable"
    assert rejection(read_file, "nonsense://x.jpg", LIMITS)[0] == "unreadable"


def test_every_image_of_caltech_101_sampled_is_kept():
    files = [file for file in sorted(shared_data("caltech101").rglob("*")) if file.is_file()][::60]
    for file in files:
        checked = check_image(read_file(str(file), LIMITS), LIMITS)
        with Image.open(file) as image:
            assert (checked.width, checked.height) == image.size


@pytest.mark.parametrize("failures", [1, 3, 4])
def test_a_read_at_which_the_storage_fails_is_tried_again_and_then_an_error(tmp_path, monkeypatch, failures):
    (tmp_path / "a.jpg").write_bytes(JPEGS["grey"])
    left, waits = [OSError(errno.EIO, os.strerror(errno.EIO))] * failures, []
    read = images._read_file

    def fail(path, limits):
        if left:
            raise left.pop()
        return read(path, limits)

    monkeypatch.setattr(images, "_read_file", fail)
    monkeypatch.setattr(reading.time, "sleep", waits.append)
    if failures <= len(reading.WAITS):
        assert read_file(str(tmp_path / "a.jpg"), LIMITS) == JPEGS["grey"]
    else:
        with pytest.raises(OSError, match="Input/output error.*a.jpg"):
            read_file(str(tmp_path / "a.jpg"), LIMITS)
    assert waits == list(reading.WAITS[:failures])


def test_a_cmyk_jpeg_without_adobes_marker_gets_it():
    content = JPEGS["CMYK"]
    at = content.index(b"\xff\xee")
    without = content[:at] + content[at + 16 :]
    checked = check_image(without, LIMITS)
    assert (checked.format, checked.found_format) == ("jpeg", "jpeg")
    assert checked.sha256 == hashlib.sha256(without).hexdigest()
    np.testing.assert_array_equal(decode(checked.encoded), decode(content))
    assert check_image(content, LIMITS).encoded is content


def test_16_bit_colours_in_separate_planes_are_refused():
    planes = write_tiff(GREY16[..., None].repeat(3, 2), 16, 2, planar=True)
    assert rejection(check_image, planes, LIMITS)[0] == "unsupported"
    assert check_image(write_tiff(GREY16[..., None].repeat(3, 2), 16, 2), LIMITS).height == 33
