"""Self-contained HTML pages: their templates, and pictures as data URIs."""

from __future__ import annotations

import base64
import io

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from PIL import Image


def load_template(name: str) -> Template:
    """Load a template of this package; what is put into it is escaped unless it is marked as safe."""
    environment = Environment(
        loader=PackageLoader("components", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template(name)


def encode_uri(image: Image.Image) -> str:
    """Return an RGB image as the data URI of a JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
