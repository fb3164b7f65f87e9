import base64
import io

import numpy as np
import pytest
from jinja2 import UndefinedError
from PIL import Image

from components.pages.html import encode_uri, load_template


def test_a_picture_becomes_a_jpeg_of_its_size():
    pixels = np.full((20, 30, 3), (200, 40, 90), np.uint8)
    head, _, data = encode_uri(Image.fromarray(pixels)).partition(",")
    assert head == "data:image/jpeg;base64"
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert (image.format, image.size) == ("JPEG", (30, 20))
    np.testing.assert_allclose(np.asarray(image), pixels, atol=6)


def test_a_template_refuses_to_leave_out_what_it_is_not_given():
    with pytest.raises(UndefinedError):
        load_template("gallery.html.j2").render(images=1)
