"""Pictures of the report: as many as its budget allows, the most wanted first."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from components.pages.html import encode_uri
from components.shards.pictures import read_thumbnails

# Characters of all data URIs: with Plotly's 5 MB and the tables of 10,000 images the page stays below 20 MB.
BUDGET = 9_000_000
# Small pictures that are looked for: reading them takes 3 ms each.
MOST_SMALL = 2500
SMALL = 80  # pixels, the longer side


def collect_pictures(
    large: Sequence[str], small: Sequence[str], examples: Path, shards: Sequence[int]
) -> dict[str, str]:
    """Return data URIs by key within BUDGET: the large pictures, then small ones, each in their order.

    Keys may come twice; one that lies in no shard, or that Pillow cannot read, has none. Raises DamagedShard.
    """
    big = set(large)
    wanted = [*dict.fromkeys(large), *[key for key in dict.fromkeys(small) if key not in big][:MOST_SMALL]]
    uris = {
        key: encode_uri(image) if key in big else encode_small(image)
        for key, image in read_thumbnails(set(wanted), examples, shards)
    }
    pictures, size = {}, 0
    for key in wanted:
        if key in uris and size + len(uris[key]) <= BUDGET:
            pictures[key] = uris[key]
            size += len(uris[key])
    return pictures


def encode_small(image: Image.Image) -> str:
    """Return a thumbnail as the data URI of a JPEG of at most SMALL pixels."""
    small = image.copy()
    small.thumbnail((SMALL, SMALL))
    return encode_uri(small)
