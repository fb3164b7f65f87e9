"""Views of an image: the whole, mirrored, and crops of it, whose bottlenecks are cached, sampled and averaged."""

from __future__ import annotations

import numpy as np

from components.backbones.settings import Augment

# A view is (top, left, bottom, right, mirrored), the first four as shares of the upright image's height and width.
WHOLE = np.array([[0, 0, 1, 1, 0]], np.float32)

# Where the room beside a crop lies: the corners, then the centre, as in AlexNet's ten crops (Krizhevsky et al. 2012).
PLACES = ((0, 0), (0, 1), (1, 0), (1, 1), (0.5, 0.5))


def list_views(augment: Augment) -> np.ndarray:
    """Return float32[V, 5]: the whole image, the same mirrored, then crops, of which every second is mirrored."""
    views = [*WHOLE.tolist()]
    if augment.flip:
        views.append([0, 0, 1, 1, 1])
    room = 1 - augment.crop_side
    for number, (down, right) in enumerate(PLACES[: augment.crops]):
        top, left = down * room, right * room
        mirrored = augment.flip and number % 2 == 1
        views.append([top, left, top + augment.crop_side, left + augment.crop_side, mirrored])
    return np.array(views, np.float32)


def serve_views(vectors: np.ndarray, average: bool) -> np.ndarray:
    """Map the bottlenecks of an image's views float32[V, D] to the one that the served model computes, float32[D].

    That is the first, or the mean of all at length 1; the head looks at directions only.
    """
    if not average:
        first: np.ndarray = vectors[0]
        return first
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    mean: np.ndarray = (vectors / np.where(lengths > 0, lengths, 1)).mean(0)
    return mean
