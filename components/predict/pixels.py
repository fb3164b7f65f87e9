"""Write images that are in memory as files that the model reads."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from components.images.transcode import PNG_MODES
from components.rejects import CORRUPT, UNSUPPORTED, RejectedImage


def encode_pixels(image: Any) -> bytes:
    """Return an array uint8[H, W, 3] or uint8[H, W] or a Pillow image as PNG, upright; raises RejectedImage."""
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or (image.ndim != 2 and image.shape[2:] != (3,)) or not image.size:
            found = f"an array {image.dtype}[{', '.join(map(str, image.shape))}]"
            raise RejectedImage(UNSUPPORTED, f"{found}, where uint8[H, W, 3] or uint8[H, W] is expected")
        image = Image.fromarray(image)
    if not isinstance(image, Image.Image):
        found = f"an object of the type {type(image).__name__}"
        raise RejectedImage(UNSUPPORTED, f"{found}, where a path, bytes, an array or a Pillow image is expected")
    if image.mode not in PNG_MODES or not all(image.size):
        found = f"an image of the mode {image.mode} and {image.width}x{image.height} pixels"
        raise RejectedImage(UNSUPPORTED, f"{found}, which PNG does not support: convert it to RGB")
    png = io.BytesIO()
    try:
        upright = ImageOps.exif_transpose(image).convert(PNG_MODES[image.mode])
    except OSError as error:  # Pillow decodes late
        raise RejectedImage(CORRUPT, f"damaged, Pillow says: {error}") from error
    upright.save(png, "PNG", compress_level=1, icc_profile=None)
    return png.getvalue()
