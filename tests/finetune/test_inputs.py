import io
import math
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance
from toys import encode_noise, paint_images, quiet_progress

from components.backbones.prepare import BackboneSession, load_graph, prepare_backbone
from components.backbones.spec import parse_backbone
from components.backbones.views import WHOLE
from components.errors import DamagedShard
from components.features import ENCODED, KEY, LABEL, PIXELS, SHA256, SOURCE, TEXT
from components.finetune.inputs import (
    Decoder,
    ImageSource,
    change_colours,
    draw_view,
    evaluate_images,
    load_decoder,
    train_images,
)
from components.finetune.settings import Distortion
from components.shards.names import Shard, shard_name
from components.shards.records import bytes_feature, int_feature, naming_damage, serialize_record, writing_shards

NONE = Distortion(flip=False, crop=1.0, colour=0.0)
ALL = Distortion(flip=True, crop=0.5, colour=0.4)
STEP = 5  # of blue from one image to the next


@pytest.fixture(scope="module")
def toy(tmp_path_factory, toy_backbone) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    return folder / prepare_backbone(parse_backbone(toy_backbone), folder, quiet_progress()).id


def write_images(folder, encoded, backbone, shards=3):
    """Write encoded images into example shards, the label being the image's number modulo 5."""
    for shard in range(shards):
        with writing_shards(folder, Shard(shard, shards)) as write:
            for image in range(len(encoded))[shard::shards]:
                record = {name: bytes_feature(b"x") for name in (KEY, SHA256, TEXT, SOURCE)}
                record |= {ENCODED: bytes_feature(encoded[image]), LABEL: int_feature(image % 5)}
                write["train"](serialize_record(record))
    files = [str(folder / shard_name("train", Shard(shard, shards))) for shard in range(shards)]
    return ImageSource(files, len(encoded), load_graph(backbone))


def encode_ramps(count):
    """Return PNGs 64 wide and high: red tells the column, green the row, blue the image."""
    ramp = np.arange(64) * 4
    images = []
    for image in range(count):
        pixels = np.stack(
            [np.tile(ramp, (64, 1)), np.tile(ramp[:, None], (1, 64)), np.full((64, 64), STEP * image)], -1
        )
        file = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(file, "PNG")
        images.append(file.getvalue())
    return images


def collect(batches):
    """Return pixels and labels of all batches."""
    found = list(batches.input_fn().as_numpy_iterator())
    return np.concatenate([features[PIXELS] for features, _ in found]), np.concatenate([labels for _, labels in found])


def numbers_of(pixels):
    """Return which ramps some pixels in [-1, 1] show."""
    return np.round((pixels[..., 2].mean((1, 2)) + 1) * 127.5 / STEP).astype(int)


@pytest.mark.parametrize("backbone", ["toy", "lite"])
def test_evaluation_sees_the_very_pixels_of_the_backbone_in_order(backbone, tmp_path, request):
    folder = request.getfixturevalue(backbone)
    encoded = [file.read_bytes() for file in sorted(paint_images(tmp_path, 4).rglob("*.*"))] + encode_noise(70)
    turned = Image.open(io.BytesIO(encode_noise(1)[0]))
    turned.getexif()[0x0112] = 6
    file = io.BytesIO()
    turned.save(file, "JPEG", exif=turned.getexif())
    encoded.append(file.getvalue())
    batches = evaluate_images(write_images(tmp_path, encoded, folder, shards=1))
    assert batches.per_pass == len(list(batches.input_fn())) == math.ceil(len(encoded) / 64)
    pixels, labels = collect(batches)
    np.testing.assert_array_equal(pixels, BackboneSession(folder).decode(encoded)[0])
    np.testing.assert_array_equal(labels, np.arange(len(encoded)) % 5)


def test_training_without_distortion_sees_the_very_pixels_of_the_backbone(tmp_path, toy):
    encoded = encode_ramps(20)
    pixels, _ = collect(train_images(write_images(tmp_path, encoded, toy), NONE, 1, 8, 0))
    order = numbers_of(pixels)
    np.testing.assert_array_equal(pixels, BackboneSession(toy).decode([encoded[image] for image in order])[0])


@pytest.mark.parametrize("held", [1, 1 << 30])
def test_every_epoch_sees_each_image_once_in_another_order(tmp_path, toy, held, monkeypatch):
    monkeypatch.setattr("components.finetune.inputs.SHUFFLED_BYTES", held)
    batches = train_images(write_images(tmp_path, encode_ramps(50), toy), Distortion(True, 0.5, 0), 3, 16, 0)
    assert batches.per_pass == 4
    assert [len(labels) for _, labels in batches.input_fn()] == [16, 16, 16, 2] * 3
    pixels, labels = collect(batches)
    images = numbers_of(pixels)
    np.testing.assert_array_equal(labels, images % 5)
    orders = {tuple(order) for order in images.reshape(3, 50)}
    assert len(orders) == 3
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert {image % 3 for image in images[:16]} == {0, 1, 2}  # of all shards


def test_a_seed_gives_the_same_batches_and_another_gives_others(tmp_path, toy):
    source = write_images(tmp_path, encode_ramps(20), toy)

    def see(seed):
        return np.concatenate(collect(train_images(source, ALL, 2, 8, seed))[0])

    first = see(1)
    assert not np.array_equal(first, see(2))
    tf.random.set_seed(0)  # that of others, which Keras applications set, does not count
    np.testing.assert_array_equal(first, see(1))


def test_an_image_is_distorted_anew_in_each_epoch(tmp_path, toy):
    pixels, _ = collect(train_images(write_images(tmp_path, encode_ramps(1), toy, shards=1), ALL, 8, 1, 0))
    assert len({image.tobytes() for image in pixels}) == 8


def test_flipping_mirrors_about_half_of_the_images_and_does_nothing_else(tmp_path, toy):
    encoded = encode_ramps(50)
    source = write_images(tmp_path, encoded, toy)
    pixels, _ = collect(train_images(source, Distortion(True, 1, 0), 4, 16, 0))
    mirrored = pixels[:, 0, 0, 0] > pixels[:, 0, -1, 0]
    assert 70 < mirrored.sum() < 130  # of 200: four standard deviations
    plain = BackboneSession(toy).decode(encoded)[0][numbers_of(pixels)]
    flipped = BackboneSession(toy).decode(encoded, np.array([[0, 0, 1, 1, 1]], np.float32))[0][numbers_of(pixels)]
    np.testing.assert_array_equal(pixels, np.where(mirrored[:, None, None, None], flipped, plain))


def test_cropping_shows_parts_of_all_sizes_and_places_but_none_too_small(tmp_path, toy):
    pixels, _ = collect(
        train_images(write_images(tmp_path, encode_ramps(50), toy), Distortion(False, 0.3, 0), 4, 16, 0)
    )
    columns = (pixels[:, 16, :, 0] + 1) * 127.5 / 4
    rows = (pixels[:, :, 16, 1] + 1) * 127.5 / 4
    # 32 pixels sampled from w columns start and end half a step within.
    width, height = ((ramp[:, -1] - ramp[:, 0]) * 32 / 31 for ramp in (columns, rows))
    areas = width * height / 64**2
    assert 0.28 < areas.min() < 0.4 and 0.9 < areas.max() < 1.03
    assert areas.std() > 0.15
    middle = columns.mean(1) - 31.5, rows.mean(1) - 31.5
    assert all(np.ptp(place) > 15 and abs(place.mean()) < 2 for place in middle)


@pytest.mark.parametrize("crop", [0.08, 0.5, 0.9, 1.0])
def test_views_lie_within_the_image_and_keep_share_and_shape(crop):
    draws = tf.constant(np.random.default_rng(0).uniform(0, 1, (500, 5)), tf.float32)
    views = np.array([draw_view(row, Distortion(True, crop, 0)) for row in draws])
    top, left, bottom, right, mirrored = views.T
    height, width = bottom - top, right - left
    assert views.min() >= 0 and max(bottom.max(), right.max()) <= 1 + 1e-6
    assert (height * width >= crop - 1e-5).all()
    assert (np.abs(np.log(height / width)) <= np.log(4 / 3) + 1e-5).all()
    assert set(mirrored) == {0, 1}
    if crop == 1:
        np.testing.assert_array_equal(views[mirrored == 0], np.repeat(WHOLE, (mirrored == 0).sum(), 0))


@pytest.mark.parametrize(
    ("draws", "enhance"),
    [
        ((0.9, 0.5, 0.5), ImageEnhance.Brightness),
        ((0.5, 0.9, 0.5), ImageEnhance.Contrast),
        ((0.5, 0.5, 0.9), ImageEnhance.Color),
        ((0.1, 0.5, 0.5), ImageEnhance.Brightness),
        ((0.5, 0.1, 0.5), ImageEnhance.Contrast),
        ((0.5, 0.5, 0.1), ImageEnhance.Color),
    ],
)
def test_colours_change_as_in_pillow_whatever_the_scale_of_the_pixels(draws, enhance):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)
    expected = enhance(Image.fromarray(pixels)).enhance(1.4 if 0.9 in draws else 0.6)
    for black, white in ((0, 255), (-1, 1), (-127 / 128, 1)):
        scaled = tf.constant(pixels / 255 * (white - black) + black, tf.float32)
        changed = change_colours(scaled, tf.constant(draws), 0.5, Decoder(None, 0, black, white))
        values = (np.array(changed) - black) / (white - black) * 255
        np.testing.assert_allclose(values, np.array(expected), atol=2)  # Pillow rounds and mixes in integers


def test_changed_colours_differ_but_stay_within_what_the_network_knows(tmp_path, lite):
    encoded = encode_noise(12)
    pixels, _ = collect(train_images(write_images(tmp_path, encoded, lite), Distortion(False, 1, 0.5), 2, 6, 0))
    decoder = load_decoder(load_graph(lite))
    assert (decoder.black, decoder.white) == (-127 / 128, 1)
    assert pixels.min() >= decoder.black and pixels.max() <= decoder.white
    means, deviations = pixels.mean((1, 2, 3)), pixels.std((1, 2, 3))
    assert means.std() > 0.05 and deviations.std() > 0.05


def test_a_graph_with_a_single_thread_sees_the_same_batches_with_known_shapes(tmp_path, toy):
    batches = train_images(write_images(tmp_path, encode_ramps(40), toy), ALL, 2, 8, 0)
    config = tf.compat.v1.ConfigProto(inter_op_parallelism_threads=1, use_per_session_threads=True)
    with tf.Graph().as_default(), tf.compat.v1.Session(config=config) as session:
        features, _ = tf.compat.v1.data.make_one_shot_iterator(batches.input_fn()).get_next()
        assert features[PIXELS].shape.as_list() == [None, 32, 32, 3]
        found = [session.run(features[PIXELS]) for _ in range(2 * batches.per_pass)]
    np.testing.assert_array_equal(np.concatenate(found), collect(batches)[0])


@pytest.mark.parametrize("harm", ["flipped", "missing"])
def test_a_damaged_file_is_named(tmp_path, toy, harm):
    source = write_images(tmp_path, encode_ramps(20), toy)
    path = Path(source.files[1])
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.unlink() if harm == "missing" else path.write_bytes(content)
    for batches in (evaluate_images(source), train_images(source, NONE, 1, 8, 0)):
        with pytest.raises(DamagedShard) as caught, naming_damage(source.files):
            collect(batches)
        assert caught.value.path == source.files[1]
