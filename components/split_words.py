"""How people name the splits of a data set: in the names of folders and files, and in a column of a manifest."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from components.errors import UserError

# The words of Hugging Face's imagefolder (datasets/data_files.py), for which eval is a test split, and common others.
EVALUATION = ("eval", "evaluation")
SPLIT_WORDS = {
    **dict.fromkeys(("train", "training", "trn", "trainset"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "valset"), "val"),
    **dict.fromkeys(("test", "testing", "tst", "testset", "holdout", *EVALUATION), "test"),
}


class SplitName(NamedTuple):
    """What a name says of a split: which it is, and the other words of the name, such as 'images' of train_images."""

    split: str
    rest: str


def list_words(name: str) -> list[str]:
    """Return the words of a name in lower case: trainImages, 01_train and TRAIN-2 have the word train."""
    return re.findall(r"[^\W\d_]+", re.sub("(?<=[a-z])(?=[A-Z])", " ", name).lower())


def read_split(name: str) -> SplitName | None:
    """Return what a name says of a split; None where it has no word for one, or several, as train_val has."""
    words = list_words(name)
    found = [word for word in words if word in SPLIT_WORDS]
    if len(found) != 1:
        return None
    return SplitName(SPLIT_WORDS[found[0]], " ".join(word for word in words if word != found[0]))


def last_split_word(name: str) -> str:
    """Return the last word for a split in a name, '' where there is none."""
    return next((word for word in reversed(list_words(name)) if word in SPLIT_WORDS), "")


def check_evaluation(words: Iterable[str], place: str) -> None:
    """Raise UserError where a place calls one split eval and another test: then eval may well be val."""
    tests = sorted({word for word in words if SPLIT_WORDS.get(word) == "test"})
    other = [word for word in tests if word not in EVALUATION]
    if other and len(other) < len(tests):
        (evaluation, *_) = [word for word in tests if word in EVALUATION]
        raise UserError(
            f"{place!r} names a split {evaluation!r} and a split {other[0]!r}, which both mean test: write val for the "
            f"one that the training may look at."
        )
