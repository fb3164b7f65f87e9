"""Write predictions as one self-contained HTML page, with a thumbnail and the likeliest classes per image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from components.images.check import Limits, RejectedImage, inspect_image, read_file
from components.images.thumbnail import make_thumbnail
from components.pages.html import encode_evidence, encode_uri, load_template
from components.predict.predict import Classifier, FileAnswer, rank_classes
from components.storage.files import write_text

# About 10 kB each: these limits bound the size of the page and its memory.
CARDS_SHOWN = 500
UNREADABLE_SHOWN = 100


class Card(NamedTuple):
    """An image on the page: ranked holds labels with probabilities, picture a data URI or '', evidence its encoding."""

    path: str
    ranked: list[tuple[str, float]]
    abstained: bool | None
    picture: str
    evidence: dict[str, Any] | None


def write_gallery(output: Path, answers: Iterable[FileAnswer], classifier: Classifier, top_k: int) -> None:
    """Write the page of some predictions, with counts of all and cards of the first CARDS_SHOWN."""
    cards: list[Card] = []
    unreadable: list[tuple[str, str]] = []
    predicted: Counter[int] = Counter()
    abstained: Counter[int] = Counter()
    failed = 0
    for path, answer in answers:
        if isinstance(answer, str):
            failed += 1
            unreadable += [(path, answer)] if failed <= UNREADABLE_SHOWN else []
            continue
        ranked = rank_classes(answer.probabilities, top_k)
        (abstained if answer.abstained else predicted)[ranked[0]] += 1
        if len(cards) < CARDS_SHOWN:
            names = [(classifier.labels[index], float(answer.probabilities[index])) for index in ranked]
            evidence = encode_evidence(answer.evidence) if answer.evidence is not None else None
            cards.append(Card(path, names, answer.abstained, _draw(path), evidence))
    classes = sorted({*predicted, *abstained}, key=lambda index: (-predicted[index], -abstained[index], index))
    page = load_template("gallery.html.j2").render(
        cards=cards,
        unreadable=unreadable,
        failed=failed,
        images=sum(predicted.values()) + sum(abstained.values()),
        abstains=classifier.abstains,
        note=classifier.note,
        abstained=sum(abstained.values()),
        classes=[(classifier.labels[index], predicted[index], abstained[index]) for index in classes],
    )
    write_text(output, page)


def _draw(path: str) -> str:
    try:  # the file is read again, as few are shown
        thumbnail = make_thumbnail(inspect_image(read_file(path, Limits()), Limits()).encoded)
    except RejectedImage:
        return ""
    return encode_uri(thumbnail) if thumbnail else ""
