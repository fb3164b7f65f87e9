"""Decoded pixels of all formats, modes and depths beside an independent reading, on every way an image takes."""

import base64

import numpy as np
import pytest
import tensorflow as tf
from image_table import HEIGHT, PHOTO, WIDTH, encode, list_dark, list_files, paint, see
from image_writers import GREY, RGB, png_chunk, write_bmp, write_gif, write_png
from PIL import Image
from starlette.testclient import TestClient
from toys import quiet_progress

from components.backbones.prepare import BackboneSession, prepare_backbone
from components.backbones.spec import parse_backbone
from components.export.versions import list_versions
from components.images.check import Limits, RejectedImage, check_image
from components.images.formats import MAX_GIF_BLOCKS
from components.images.stored_pixels import decode_upright
from components.images.thumbnail import make_thumbnail
from components.predict.predict import load_export, predict_files
from components.serve.server import make_app
from components.serve.tf_serving import load_served

pytestmark = pytest.mark.filterwarnings("ignore")  # Pillow warns of files that it mends

# JPEG decoders differ a little: in the rounding of the transform, and in how they enlarge the colours.
TOLERANCE = 2
FILES = {name: (content, expected) for name, content, expected in list_files()}
# What the model itself reads; WebP, TIFF and other BMPs go through Python first.
READ = {"JPEG", "PNG", "GIF", "BMP"}

decode = tf.function(decode_upright, input_signature=[tf.TensorSpec([], tf.string)])


def difference(pixels, expected):
    """Return the mean difference of 255 of two images, which is 255 where their sizes differ."""
    return np.abs(pixels.astype(int) - expected).mean() if pixels.shape == expected.shape else 255


def measure(name, content):
    """Return how far the graph's pixels of a file's content are from what a person sees, None if it refuses it."""
    try:
        pixels = decode(content).numpy()
    except tf.errors.InvalidArgumentError:
        return None
    expected = FILES[name][1]
    return difference(pixels, see(FILES[name][0]) if expected is None else expected)


def test_stored_images_look_as_a_person_sees_them_or_are_rejected_with_a_reason():
    differing, rejected = {}, {}
    for name, (content, _) in FILES.items():
        try:
            found = measure(name, check_image(content, Limits()).encoded)
            if found is None or found > TOLERANCE:
                differing[name] = found
        except RejectedImage as reject:
            rejected[name] = reject.args
    assert not differing
    assert len(FILES) >= 250 and {name.split()[0] for name in FILES} == READ | {"WebP", "TIFF"}
    assert {reason for reason, _ in rejected.values()} <= {"unsupported", "corrupt"}
    few = {name for name, _ in list_dark()}
    others = ("floats", "32 bits", "signed", "LAB", "separate planes 16", "white is zero 16 >", "RGBA 16 clear")
    assert {name for name in rejected if not any(word in name for word in others)} == few
    assert len(rejected) == len(few) + 10
    print(f"{len(FILES)} files, {len(rejected)} rejected, {len(differing)} differ by more than {TOLERANCE}")


def test_the_model_given_the_files_own_bytes_shows_the_same_or_refuses_them():
    refused, differing = set(), {}
    for name, (content, _) in FILES.items():
        found = measure(name, content)
        if found is None:
            refused.add(name)
        elif found > TOLERANCE:
            differing[name] = found
    assert not differing
    read = {name for name in FILES if name.split()[0] in READ} - {name for name, _ in list_dark()}
    plain = {name for name in FILES if name.startswith(("BMP 24", "BMP 32 43", "BMP 32 -43"))}
    assert read - refused == {name for name in read if not name.startswith("BMP")} - {"PNG RGBA 16 clear"} | plain
    print(f"{len(FILES)} files, {len(refused)} refused, {len(differing)} differ by more than {TOLERANCE}")


def test_thumbnails_show_the_same():
    for name, (content, expected) in FILES.items():
        try:
            encoded = check_image(content, Limits()).encoded
        except RejectedImage:
            continue
        pixels = np.asarray(make_thumbnail(encoded))  # enlarged by whole pixels
        factor = len(pixels) // len(decode(encoded))
        expected = see(content) if expected is None else expected
        assert difference(pixels[::factor, ::factor], expected) <= TOLERANCE, name


@pytest.fixture(scope="module")
def toy(tmp_path_factory, toy_backbone):
    folder = tmp_path_factory.mktemp("toy")
    return BackboneSession(folder / prepare_backbone(parse_backbone(toy_backbone), folder, quiet_progress()).id)


SAME = [
    "JPEG RGB 4:2:0",
    "JPEG EXIF 6 behind XMP",
    "JPEG CMYK without marker {}",
    "PNG RGBA 8 False",
    "PNG palette 4 tRNS False",
]
SAME += [
    "PNG eXIf 6",
    "PNG grey 16",
    "GIF transparent, own palette True",
    "GIF partial first frame, transparent 60",
    "BMP 24 43",
]


def test_predict_serve_and_the_saved_model_answer_alike(toy_run, tmp_path):
    export = list_versions(toy_run.exports)[-1]
    model, classifier = tf.saved_model.load(str(export)), load_export(export)
    served = load_served(toy_run.exports, None)
    with TestClient(make_app(served, None, "127.0.0.1"), base_url="http://127.0.0.1:8501") as client:
        for number, name in enumerate(SAME):
            content = FILES[name][0]
            (tmp_path / str(number)).write_bytes(content)
            images = tf.constant([content, encode(Image.fromarray(decode(content).numpy()), "PNG")])
            raw, seen = model.signatures["serving_default"](images)["probabilities"].numpy()
            ((_, predicted),) = predict_files(classifier.compute, [str(tmp_path / str(number))])
            body = {"instances": [{"b64": base64.b64encode(content).decode()}]}
            answer = client.post(f"/v1/models/{served.name}:predict", json=body).json()
            np.testing.assert_allclose(raw, seen, atol=1e-5, err_msg=name)
            np.testing.assert_allclose(predicted.probabilities, raw, atol=1e-6, err_msg=name)
            np.testing.assert_allclose(answer["predictions"][0]["probabilities"], raw, atol=1e-5, err_msg=name)


def test_an_image_refused_by_the_model_is_explained_by_predict_and_harms_no_other(toy_run, tmp_path):
    dark = dict(list_dark())["PNG grey of 12 in 16"]
    (tmp_path / "dark.png").write_bytes(dark)
    PHOTO.save(tmp_path / "photo.png")
    export = load_export(list_versions(toy_run.exports)[-1])
    outcomes = dict(predict_files(export.compute, [str(tmp_path / "dark.png"), str(tmp_path / "photo.png")]))
    words = "unsupported: no value of its 16 bits is above 4,095 of 65,535: scale it to the full range, or to 8 bits"
    assert outcomes[str(tmp_path / "dark.png")] == words
    assert outcomes[str(tmp_path / "photo.png")].probabilities.sum() == pytest.approx(1)


def test_ordinary_and_other_images_of_a_batch_keep_their_order(toy):
    contents = [FILES[name][0] for name in (*SAME, *SAME[::-1])]
    together = toy.run("pixels", "image_bytes", contents)
    alone = np.concatenate([toy.run("pixels", "image_bytes", [content]) for content in contents])
    np.testing.assert_array_equal(together, alone)
    assert toy.run("pixels", "image_bytes", []).shape == (0, 32, 32, 3)


@pytest.mark.parametrize("brightest, accepted", [(16383, False), (16384, True), (65535, True)])
def test_a_quarter_of_the_range_is_enough_for_16_bits(brightest, accepted):
    grey = np.full((4, 4, 1), 100)
    grey[2, 3] = brightest
    content = write_png(grey, 16, GREY)
    if accepted:
        assert decode(content).numpy().max() == brightest >> 8
    else:
        with pytest.raises(RejectedImage, match="is above 16,383 of 65,535"):
            check_image(content, Limits())


def test_black_of_8_bits_is_an_image():
    assert check_image(write_png(np.zeros((4, 4, 3), int), 8, RGB), Limits()).uniform


def test_words_that_look_like_transparency_change_nothing():
    text = png_chunk(b"tEXt", b"Comment\0tRNS")
    np.testing.assert_array_equal(decode(write_png(paint(), 8, RGB, text)), paint())


def test_a_gif_with_more_before_its_image_than_is_looked_at_is_refused():
    indices, palette = paint(1, 127)[..., 0], np.zeros((128, 3), int)
    comment = b"!\xfe" + b"\1!" * (MAX_GIF_BLOCKS + 1) + b"\0"
    with pytest.raises(RejectedImage, match="unsupported.*save it anew"):
        check_image(write_gif(indices, palette, before=comment), Limits())


@pytest.mark.parametrize("place", [(60000, 0), (0, 60000)])
def test_a_frame_far_outside_the_canvas_of_a_gif_is_too_large(place):
    content = write_gif(paint(1, 127)[..., 0], np.zeros((128, 3), int), (60000, 60000), place)
    with pytest.raises(RejectedImage, match="too_large"):
        check_image(content, Limits())
    with pytest.raises(tf.errors.InvalidArgumentError, match="canvas of a GIF is too large"):
        decode(content)


@pytest.mark.parametrize("name", ["GIF transparent, own palette True", "PNG palette 4 tRNS False", "BMP 24 43"])
def test_bytes_cut_off_or_damaged_anywhere_give_an_image_or_one_kind_of_error(name):
    content, chance = FILES[name][0], np.random.default_rng(0)
    for number in range(200):
        damaged = bytearray(content[: len(content) if number % 2 else chance.integers(len(content))])
        for place in chance.integers(0, min(len(damaged), 60) or 1, 2 * (number % 2)):
            damaged[place] = chance.choice([0, 1, 0x21, 0x2C, 0x80, 0xF9])
        try:
            checked = check_image(bytes(damaged), Limits(max_pixels=10**6))
            assert decode(checked.encoded).shape[2] == 3
        except RejectedImage:
            pass


UNIFORM = {
    "white PNG": (encode(Image.new("L", (9, 7), 255), "PNG"), True),
    "red JPEG": (encode(Image.new("RGB", (90, 70), (200, 10, 10)), "JPEG"), True),
    "transparent PNG": (encode(Image.new("RGBA", (9, 7), (5, 6, 7, 0)), "PNG"), True),
    "clear WebP": (encode(Image.new("RGBA", (9, 7), (5, 6, 7, 0)), "WEBP", lossless=True), True),
    "one pixel": (encode(Image.new("RGB", (1, 1)), "PNG"), True),
    "one row differs": (encode(Image.fromarray(np.eye(7, dtype=np.uint8)[3:4].repeat(7, 0).T * 255), "PNG"), False),
    "last pixel differs": (encode(Image.fromarray((np.arange(63) // 62).astype(np.uint8).reshape(7, 9)), "PNG"), False),
    "photo": (encode(PHOTO, "PNG"), False),
}


@pytest.mark.parametrize(("content", "uniform"), UNIFORM.values(), ids=UNIFORM)
def test_an_image_of_one_colour_is_uniform(content, uniform):
    assert check_image(content, Limits()).uniform == uniform


def test_a_bmp_is_read_by_the_model_only_where_its_bytes_are_its_colours():
    rows = [bytes(3 * WIDTH)] * HEIGHT
    whole = write_bmp(rows, WIDTH, HEIGHT, 24)
    assert decode(whole).shape == (HEIGHT, WIDTH, 3)
    for damaged in (whole[:-1], whole + b"\0", whole[:28] + b"\x08" + whole[29:], whole[:50]):
        with pytest.raises(tf.errors.InvalidArgumentError, match="palette, masks or compression"):
            decode(damaged)
