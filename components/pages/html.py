"""Parts of self-contained HTML pages: templates, images as data URIs, and figures."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from PIL import Image

if TYPE_CHECKING:
    import plotly.graph_objects as go


def load_template(name: str) -> Template:
    """Return a template of this package by its file name; it escapes every value that is not marked as safe."""
    environment = Environment(
        loader=PackageLoader("components.pages"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template(name)


def encode_uri(image: Image.Image) -> str:
    """Return the data URI of an RGB image as JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def encode_evidence(evidence: np.ndarray) -> dict[str, Any]:
    """Return K maps float32[K, h, w] for layEvidence: their width, and the base64 of a byte a place, of which 128 is 0.

    The largest amount of all maps is 127 away from 128.
    """
    cells = np.round(evidence / max(np.abs(evidence).max(), 1e-9) * 127 + 128).astype(np.uint8)
    return {"width": evidence.shape[2], "maps": [base64.b64encode(part.tobytes()).decode() for part in cells]}


def embed_figure(figure: go.Figure, name: str | None = None) -> str:
    """Return an element that the script of the page draws once it is visible; a named figure zooms by scrolling."""
    named = f' id="{name}" data-zoom' if name else ""
    content = figure.to_json().replace("<", "\\u003c")  # no name in it can end the script element
    script = f'<script type="application/json">{content}</script>'
    return f'<div class="plot"{named} style="height: {figure.layout.height}px">{script}</div>'


def load_plotly() -> str:
    """Return Plotly's own script."""
    from plotly.offline import get_plotlyjs

    source: str = get_plotlyjs()
    return source
