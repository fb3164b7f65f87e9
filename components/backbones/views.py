"""Views of an image: the whole, mirrored, and crops, whose bottlenecks are cached, sampled and averaged."""

from __future__ import annotations

import numpy as np

from components.backbones.settings import Augment

# A view is (top, left, bottom, right, mirrored), the first four as fractions of the upright image's height and width.
WHOLE = np.array([[0, 0, 1, 1, 0]], np.float32)

# Positions (down, right) of crops: the corners, then the centre, as in AlexNet's ten crops (Krizhevsky et al. 2012).
CROP_POSITIONS = ((0, 0), (0, 1), (1, 0), (1, 1), (0.5, 0.5))


def list_views(augment: Augment) -> np.ndarray:
    """Return the views float32[V, 5]: the whole image, with flip the whole mirrored, then the crops.

    With flip every second crop is mirrored.
    """
    views = [*WHOLE.tolist()]
    if augment.flip:
        views.append([0, 0, 1, 1, 1])
    room = 1 - augment.crop_side
    for number, (down, right) in enumerate(CROP_POSITIONS[: augment.crops]):
        top, left = down * room, right * room
        mirrored = augment.flip and number % 2 == 1
        views.append([top, left, top + augment.crop_side, left + augment.crop_side, mirrored])
    return np.array(views, np.float32)


def serve_views(vectors: np.ndarray, average: bool) -> np.ndarray:
    """Map the bottlenecks of an image's views float32[V, D] to the served one float32[D].

    It is the first, or with average the mean of all after each is scaled to length 1; the head uses only its direction.
    """
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    served: np.ndarray = (vectors / np.where(lengths > 0, lengths, 1)).mean(0) if average else vectors[0]
    return served
