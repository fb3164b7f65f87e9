"""Self-contained HTML pages: their templates, pictures as data URIs, and figures."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from PIL import Image

if TYPE_CHECKING:
    import plotly.graph_objects as go


def load_template(name: str) -> Template:
    """Load a template of this package; what is put into it is escaped unless it is marked as safe."""
    environment = Environment(
        loader=PackageLoader("components.pages"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template(name)


def encode_uri(image: Image.Image) -> str:
    """Return an RGB image as the data URI of a JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def embed_figure(figure: go.Figure, name: str | None = None) -> str:
    """Return where the page's script draws the figure once it is seen; one with a name can be zoomed by scrolling."""
    named = f' id="{name}" data-zoom' if name else ""
    content = figure.to_json().replace("<", "\\u003c")  # no name in it can end the script element
    script = f'<script type="application/json">{content}</script>'
    return f'<div class="plot"{named} style="height: {figure.layout.height}px">{script}</div>'


def load_plotly() -> str:
    """Return Plotly's own script."""
    from plotly.offline import get_plotlyjs

    source: str = get_plotlyjs()
    return source
