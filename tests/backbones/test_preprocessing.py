import collections
import io
import random
import struct

import numpy as np
import pytest
import tensorflow as tf
from image_writers import png_chunk, write_png
from PIL import Image, ImageOps
from toys import paint_images, quiet_progress

from components.backbones.network import Network
from components.backbones.prepare import BackboneSession, prepare_backbone
from components.backbones.preprocessing import add_decoding
from components.backbones.spec import parse_backbone
from components.backbones.views import WHOLE
from components.images.check import Limits, RejectedImage, check_image
from components.images.exif import MAX_EXIF_PARTS, find_exif, read_orientation
from components.images.exif_graph import find_orientation

ORIENTATION, SHORT, LONG, ASCII = 0x0112, 3, 4, 2


@pytest.fixture(scope="module")
def toy(tmp_path_factory, toy_backbone):
    folder = tmp_path_factory.mktemp("toy")
    backbone = prepare_backbone(parse_backbone(toy_backbone), folder, quiet_progress())
    return BackboneSession(folder / backbone.id)


def see(session, encoded):
    """Return what the canonical graph makes of encoded images, float32[N, 32, 32, 3]."""
    return session.run("pixels", "image_bytes", encoded)


def write_directory(order, tags, offset=8, following=0):
    """Return a TIFF structure with one directory of (tag, type, count, value) at an offset, and what points behind."""
    entries = b""
    for tag, kind, count, value in tags:
        field = struct.pack(order + ("H" if kind == SHORT else "I"), value)
        entries += struct.pack(order + "HHI", tag, kind, count) + field.ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", offset)
    return (
        head.ljust(offset, b"\0") + struct.pack(order + "H", len(tags)) + entries + struct.pack(order + "I", following)
    )


def segment(marker, content):
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(content) + 2) + content


def make_jpeg(*segments, jfif=True):
    """Return a JPEG with segments behind its JFIF segment, if it is to have one, or behind its first two bytes."""
    pixels = np.random.default_rng(0).integers(0, 255, (6, 4, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((37, 53)).save(buffer, "JPEG")
    jpeg = buffer.getvalue()
    assert jpeg[2:4] == b"\xff\xe0"
    behind = 4 + struct.unpack_from(">H", jpeg, 4)[0]
    return (jpeg[:behind] if jfif else jpeg[:2]) + b"".join(segments) + jpeg[behind:]


def make_png(tiff, behind):
    """Return a PNG with a TIFF structure as EXIF, before its pixels or behind them."""
    chunk = png_chunk(b"eXIf", tiff)
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3))
    return write_png(pixels, 8, 2, behind=chunk) if behind else write_png(pixels, 8, 2, chunk)


def app1(tiff):
    return segment(0xE1, b"Exif\0\0" + tiff)


def turn(jpeg, orientation):
    """Return the pixels of a JPEG as TensorFlow decodes and Pillow turns them, as a PNG."""
    image = Image.fromarray(tf.io.decode_image(jpeg, channels=3).numpy())
    image.getexif()[ORIENTATION] = orientation
    buffer = io.BytesIO()
    ImageOps.exif_transpose(image).save(buffer, "PNG", exif=b"")
    return buffer.getvalue()


def check_orientation(session, jpeg, orientation):
    """Assert that the graph and check_image both take a JPEG for turned by an orientation."""
    np.testing.assert_array_equal(*see(session, [jpeg, turn(jpeg, orientation)]))
    assert check_image(jpeg, Limits()).orientation == orientation


@pytest.mark.parametrize("jfif", [True, False], ids=["jfif", "no jfif"])
@pytest.mark.parametrize("order", ["<", ">"], ids=["little endian", "big endian"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_set_upright_as_pillow_does(toy, orientation, order, jfif):
    tiff = write_directory(order, [(ORIENTATION, SHORT, 1, orientation)])
    check_orientation(toy, make_jpeg(app1(tiff), jfif=jfif), orientation)


def test_orientations_differ_in_what_the_network_sees(toy):
    jpegs = [make_jpeg(app1(write_directory("<", [(ORIENTATION, SHORT, 1, n)]))) for n in range(1, 9)]
    assert len({pixels.tobytes() for pixels in see(toy, jpegs)}) == 8


CAMERA = [(0x010F, ASCII, 4, 0x41), (0x0110, ASCII, 4, 0x42), (ORIENTATION, SHORT, 1, 6), (0x0128, SHORT, 1, 2)]
THUMBNAIL = write_directory("<", [(ORIENTATION, SHORT, 1, 8)])[8:]


LAYOUTS = {
    "more tags": (6, [app1(write_directory("<", CAMERA))]),
    "more tags, big endian": (6, [app1(write_directory(">", CAMERA))]),
    "directory further back": (6, [app1(write_directory(">", CAMERA, offset=300))]),
    "directory at an odd place": (6, [app1(write_directory("<", CAMERA, offset=11))]),
    "much behind the directory": (6, [app1(write_directory("<", CAMERA) + bytes(60000))]),
    "not the thumbnail's": (6, [app1(write_directory("<", CAMERA, following=62) + THUMBNAIL)]),
    "the thumbnail's alone": (1, [app1(write_directory("<", [(1, SHORT, 1, 1)], following=26) + THUMBNAIL)]),
    "behind a comment": (6, [segment(0xFE, b"made by hand"), app1(write_directory("<", CAMERA))]),
    "behind XMP": (6, [segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0"), app1(write_directory("<", CAMERA))]),
    "behind a comment that looks like it": (
        1,
        [segment(0xFE, app1(write_directory("<", CAMERA))), app1(write_directory("<", [(1, SHORT, 1, 1)]))],
    ),
    "the first of two": (6, [app1(write_directory("<", CAMERA)), app1(write_directory("<", [(274, 3, 1, 3)]))]),
    "the first of two tags": (3, [app1(write_directory("<", [(ORIENTATION, SHORT, 1, n) for n in (3, 6)]))]),
    "behind a long comment": (6, [segment(0xFE, bytes(65533)), app1(write_directory("<", CAMERA))]),
    "behind many segments": (6, [segment(0xE2, bytes(300))] * 1000 + [app1(write_directory("<", CAMERA))]),
    "behind fill bytes": (6, [b"\xff\xff", app1(write_directory("<", CAMERA))]),
    "not a short number": (1, [app1(write_directory("<", [(ORIENTATION, LONG, 1, 6)]))]),
    "0": (1, [app1(write_directory("<", [(ORIENTATION, SHORT, 1, 0)]))]),
    "9": (1, [app1(write_directory("<", [(ORIENTATION, SHORT, 1, 9)]))]),
    "neither byte order": (1, [app1(b"XX" + write_directory("<", CAMERA)[2:])]),
    "directory outside": (1, [app1(write_directory("<", CAMERA)[:4] + b"\xff\xff\xff\x7f")]),
    "directory before": (1, [app1(write_directory("<", CAMERA)[:4] + b"\xff\xff\xff\xff")]),
    "cut off": (1, [app1(write_directory("<", CAMERA)[:40])]),
    "empty": (1, [app1(b"")]),
    "more tags promised": (6, [app1(write_directory("<", CAMERA).replace(b"\x04\0", b"\xff\xff", 1))]),
}


@pytest.mark.parametrize(("orientation", "segments"), LAYOUTS.values(), ids=LAYOUTS)
def test_orientation_is_read_from_the_first_directory_alone(toy, orientation, segments):
    check_orientation(toy, make_jpeg(*segments), orientation)


def test_pillows_own_exif_is_read(toy):
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif.update({ORIENTATION: orientation, 0x010F: "maker", 0x0131: "a longer name of a program", 0x8298: "me"})
        exif.get_ifd(0x8769)[0x9003] = "2024:01:01 00:00:00"
        buffer = io.BytesIO()
        Image.fromarray(np.random.default_rng(1).integers(0, 255, (9, 7, 3)).astype(np.uint8)).save(
            buffer, "JPEG", exif=exif
        )
        check_orientation(toy, buffer.getvalue(), orientation)


def test_graph_and_check_agree_on_damaged_exif():
    chance = random.Random(0)
    layouts = [(order, offset, jfif) for order in "<>" for offset in (8, 20) for jfif in (False, True)]
    healthy = [make_jpeg(app1(write_directory(order, CAMERA, offset)), jfif=jfif) for order, offset, jfif in layouts]
    healthy.append(make_jpeg(segment(0xFE, bytes(5000)), app1(write_directory("<", CAMERA))))
    healthy += [make_png(write_directory(order, CAMERA, offset), behind) for order, offset, behind in layouts]
    find = tf.function(find_orientation, input_signature=[tf.TensorSpec([], tf.string)])
    told = collections.Counter()
    for number in range(6000):
        jpeg = bytearray(healthy[number % len(healthy)])
        start = jpeg.index(b"Exif" if number % len(healthy) < 9 else b"eXIf") - 4
        for _ in range(chance.choice((1, 2, 4))):
            jpeg[start + chance.randrange(80)] = chance.choice((0, 1, 3, 6, 8, 18, 255, chance.randrange(256)))
        damaged = bytes(jpeg)[: chance.choice((len(jpeg), start + chance.randrange(80)))]
        orientation = read_orientation(find_exif(damaged))
        assert orientation == find(damaged)
        told[orientation] += 1
    assert {1, 3, 6, 8} <= set(told)
    assert told[6] > 1000


def test_images_without_exif_are_resized_and_scaled_as_they_are(toy, tmp_path):
    encoded = [file.read_bytes() for file in sorted(paint_images(tmp_path, 4).rglob("*.*"))]
    plain = [
        tf.image.resize(tf.io.decode_image(content, channels=3, expand_animations=False), [32, 32]) / 127.5 - 1
        for content in encoded
    ]
    np.testing.assert_allclose(see(toy, encoded), plain, atol=1e-6)


def test_exif_of_formats_that_have_none_is_left_alone(toy):
    pixels = np.random.default_rng(1).integers(0, 255, (9, 7, 3)).astype(np.uint8)
    exif = b"Exif\0\0" + write_directory("<", CAMERA)
    gif, bmp = io.BytesIO(), io.BytesIO()
    Image.fromarray(pixels).convert("P").save(gif, "GIF", comment=exif + b"eXIf")
    Image.fromarray(np.frombuffer((exif * 3)[:108], np.uint8).reshape(6, 6, 3)).save(bmp, "BMP")
    for content in (gif.getvalue(), bmp.getvalue()):
        assert find_exif(content) == b"" and int(find_orientation(tf.constant(content))) == 1
        plain = tf.image.resize(np.asarray(Image.open(io.BytesIO(content)).convert("RGB")), [32, 32]) / 127.5 - 1
        np.testing.assert_allclose(see(toy, [content])[0], plain, atol=1e-6)


def test_exif_behind_more_parts_than_are_looked_at_is_refused(toy):
    exif = write_directory("<", CAMERA)
    jpeg = make_jpeg(segment(0xFE, b"") * MAX_EXIF_PARTS, app1(exif))
    png = write_png(
        np.zeros((9, 7, 3), int), 8, 2, *[png_chunk(b"tEXt", b"")] * MAX_EXIF_PARTS, png_chunk(b"eXIf", exif)
    )
    for content in (jpeg, png):
        with pytest.raises(RejectedImage, match="unsupported.*10,000 parts: save it anew"):
            check_image(content, Limits())
        with pytest.raises(tf.errors.InvalidArgumentError, match="10,000 parts: save it anew"):
            see(toy, [content])
    without = write_png(np.zeros((9, 7, 3), int), 8, 2, *[png_chunk(b"tEXt", b"")] * MAX_EXIF_PARTS)
    assert check_image(without, Limits()).orientation == 1


START = b"\xff\xd8\xff\xe1"


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff", b"no image", b"Exif\0\0", START, START + b"\xff\xffExif\0\0II*\0", b"GIF89aExif\0\0"],
)
def test_bytes_that_are_no_image_give_an_error_in_words(toy, content):
    with pytest.raises(
        tf.errors.InvalidArgumentError, match="Unknown image file|Invalid (JPEG|GIF) data|Input is empty"
    ):
        see(toy, [content])


def test_a_legacy_network_gets_the_corner_aligned_sampling_of_the_upright_image():
    jpeg = make_jpeg(app1(write_directory("<", [(ORIENTATION, SHORT, 1, 6)])))
    network = Network(tf.compat.v1.GraphDef(), "", "", size=20, shift=100.0, divisor=2.0, legacy_resize=True)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        pixels = session.run(add_decoding(tf.constant([jpeg]), tf.constant(WHOLE), network))
    upright = np.rot90(tf.io.decode_image(jpeg).numpy(), -1)
    expected = (tf.compat.v1.image.resize_bilinear(upright[None], [20, 20]) - 100) / 2
    np.testing.assert_allclose(pixels, expected, atol=1e-4)


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize(("width", "height", "ratio"), [(159, 400, 1), (160, 400, 2), (700, 339, 4), (1300, 640, 8)])
def test_a_large_jpeg_is_decoded_at_the_smallest_size_that_the_network_needs(toy, width, height, ratio, orientation):
    random_numbers = np.random.default_rng(7)
    small = random_numbers.integers(0, 255, (height // 20, width // 20, 3)).astype(np.uint8)
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[ORIENTATION] = orientation
    picture = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
    picture.save(buffer, "JPEG", quality=98, exif=exif)
    encoded = b"\xff\xd8" + segment(0xFE, bytes(60_000)) * 2 + buffer.getvalue()[2:]  # with comments of 120 kB
    (found,) = see(toy, [encoded])
    differences = {}
    for scale in (1, 2, 4, 8):
        opened = Image.open(io.BytesIO(encoded))
        opened.draft("RGB", (width // scale, height // scale))
        assert opened.size == (-(-width // scale), -(-height // scale))
        expected = tf.image.resize(np.asarray(ImageOps.exif_transpose(opened)), [32, 32]) / 127.5 - 1
        differences[scale] = np.abs(found - expected).mean()
    assert min(differences, key=differences.get) == ratio and differences[ratio] < 2 / 127.5, differences
