import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from components.backbones.network import Network
from components.backbones.preprocessing import add_decoding, cut_view
from components.backbones.settings import Augment
from components.backbones.views import WHOLE, list_views, serve_views


def augment(flip=False, crops=0, crop_side=0.8, average=False):
    return Augment(flip, crops, crop_side, average)


def test_without_augmentation_there_is_the_whole_image_only():
    np.testing.assert_array_equal(list_views(augment()), WHOLE)
    assert augment().name == ""


def test_views_are_the_whole_the_mirrored_and_crops_at_the_corners_and_the_centre():
    views = list_views(augment(flip=True, crops=5, crop_side=0.75))
    expected = [
        [0, 0, 1, 1, 0],
        [0, 0, 1, 1, 1],
        [0, 0, 0.75, 0.75, 0],
        [0, 0.25, 0.75, 1, 1],
        [0.25, 0, 1, 0.75, 0],
        [0.25, 0.25, 1, 1, 1],
        [0.125, 0.125, 0.875, 0.875, 0],
    ]
    np.testing.assert_allclose(views, expected)
    assert augment(flip=True, crops=5, crop_side=0.75).name == "flip-crops5x0.75"


def test_without_flip_nothing_is_mirrored():
    views = list_views(augment(crops=4))
    assert len(views) == 5 and not views[:, 4].any()
    assert augment(crops=4).name == "crops4x0.8"


@pytest.mark.parametrize("view", [[0, 0, 1, 1, 0], [0, 0, 1, 1, 1], [0.2, 0.1, 0.9, 0.6, 0], [0.5, 0.5, 1, 1, 1]])
def test_a_view_is_what_pillow_cuts(view):
    pixels = np.random.default_rng(0).integers(0, 256, (37, 53, 3), np.uint8)
    top, left, bottom, right = (round(share * side) for share, side in zip(view[:4], [37, 53, 37, 53], strict=True))
    expected = Image.fromarray(pixels).crop((left, top, right, bottom))
    expected = expected.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if view[4] else expected
    np.testing.assert_array_equal(cut_view(tf.constant(pixels), tf.constant(view, tf.float32)), np.asarray(expected))


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (2, 2)])
def test_a_view_of_a_tiny_image_has_at_least_a_pixel(size):
    for view in list_views(augment(flip=True, crops=5, crop_side=0.1)):
        assert min(cut_view(tf.zeros([*size, 3], tf.uint8), tf.constant(view)).shape[:2]) >= 1


def test_the_views_of_an_image_leave_the_decoder_together_and_resized():
    images = []
    for side in (40, 30):
        buffer = io.BytesIO()
        pixels = np.random.default_rng(side).integers(0, 256, (side, 50, 3), np.uint8)
        Image.fromarray(pixels).save(buffer, "PNG")
        images.append((pixels, buffer.getvalue()))
    network = Network(tf.compat.v1.GraphDef(), "", "", size=16, shift=10.0, divisor=2.0)
    views = list_views(augment(flip=True, crops=2))
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        found = session.run(add_decoding(tf.constant([encoded for _, encoded in images]), tf.constant(views), network))
    assert found.shape == (8, 16, 16, 3)
    expected = [
        (tf.image.resize(cut_view(tf.constant(pixels), tf.constant(view)), [16, 16]) - 10) / 2
        for pixels, _ in images
        for view in views
    ]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_what_is_served_is_the_first_view_or_the_mean_direction():
    vectors = np.array([[3, 0], [0, 5], [0, 0]], np.float32)
    np.testing.assert_array_equal(serve_views(vectors, average=False), [3, 0])
    np.testing.assert_allclose(serve_views(vectors, average=True), [1 / 3, 1 / 3])
