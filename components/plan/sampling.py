"""A sample of the images, each class with its share."""

from __future__ import annotations

import collections
import random
from collections.abc import Sequence

from components.data.image_file import ImageFile

# Images of a class, so that it can have one in each split.
FEWEST = 3


def draw_sample(files: Sequence[ImageFile], count: int, seed: int = 0) -> list[ImageFile]:
    """Return about so many files, at random in each class by its share and FEWEST at least, in their order.

    Of more classes than that allows, those with the most images stand for all.
    """
    classes = collections.Counter(file.text for file in files)
    chosen = {text: size for text, size in classes.most_common(max(2, count // FEWEST)) if size >= FEWEST}
    share = count / max(1, sum(chosen.values()))
    places: dict[str, list[int]] = {text: [] for text in chosen}
    for place, file in enumerate(files):
        if file.text in places:
            places[file.text].append(place)
    draw = random.Random(seed)
    taken = [
        place
        for text, size in chosen.items()
        for place in draw.sample(places[text], min(size, max(FEWEST, round(share * size))))
    ]
    return [files[place] for place in sorted(taken)]
