"""Vision transformers against outputs that the library transformers computed with the same weights, on torch."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from components.backbones.vit import add_vit, list_layers
from components.backbones.vit_folder import FAMILIES, Weights, read_config

FOLDERS = Path(__file__).with_name("vit")


@pytest.mark.parametrize("name", FAMILIES)
def test_every_layer_at_three_sizes_is_that_of_the_reference_library(name):
    folder = FOLDERS / name
    expected = np.load(folder / "expected.npz")
    config, weights = read_config(folder, name), Weights(folder, name)
    keys = [key for key in expected.files if key != "images"]
    assert {key.split()[0] for key in keys} == {*list_layers(config, weights)}
    for key in keys:
        layer, size = key.split()
        pixels = expected["images"][:, : int(size), : int(size)] / np.float32(127.5) - 1
        with tf.Graph().as_default(), tf.compat.v1.Session() as session:
            placeholder = tf.compat.v1.placeholder(tf.float32, [None, *pixels.shape[1:]])
            found = session.run(add_vit(placeholder, layer, config, weights), {placeholder: pixels})
        assert found.shape == expected[key].shape
        np.testing.assert_allclose(found, expected[key], atol=1e-5, rtol=0, err_msg=key)


def test_the_default_layer_of_a_family_is_one_that_it_has():
    for name in FAMILIES:
        folder = FOLDERS / name
        assert FAMILIES[name].layer in list_layers(read_config(folder, name), Weights(folder, name))
