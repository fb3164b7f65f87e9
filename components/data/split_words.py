"""Words for the splits of a data set in names of folders and files and in manifests."""

from __future__ import annotations

import collections
import os
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from components.data.class_names import natural_key
from components.errors import UserError
from components.features import AUTO

# Values of data.layout, beside AUTO: the folders directly in a folder are classes or splits.
CLASSES, SPLIT_FOLDERS = "classes", "splits"
# The words of Hugging Face's imagefolder (datasets/data_files.py), where eval is a test split, and other common words.
EVALUATION = ("eval", "evaluation")
SPLIT_WORDS = {
    **dict.fromkeys(("train", "training", "trn", "trainset"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "valset"), "val"),
    **dict.fromkeys(("test", "testing", "tst", "testset", "holdout", *EVALUATION), "test"),
}


class SplitName(NamedTuple):
    """The split in a name, and the other words of the name, such as 'images' in train_images."""

    split: str
    rest: str


def list_words(name: str) -> list[str]:
    """Return the words of a name in lower case: trainImages, 01_train and TRAIN-2 contain the word train."""
    return re.findall(r"[^\W\d_]+", re.sub("(?<=[a-z])(?=[A-Z])", " ", name).lower())


def read_split(name: str) -> SplitName | None:
    """Return the split in a name; None if the name has no word for a split, or several, as train_val."""
    words = list_words(name)
    found = [word for word in words if word in SPLIT_WORDS]
    if len(found) != 1:
        return None
    return SplitName(SPLIT_WORDS[found[0]], " ".join(word for word in words if word != found[0]))


def last_split_word(name: str) -> str:
    """Return the last word for a split in a name, '' if it has none."""
    return next((word for word in reversed(list_words(name)) if word in SPLIT_WORDS), "")


def find_splits(root: str, folders: set[str], layout: str) -> dict[str, str]:
    """Return the split of each folder directly in the root; empty if they are classes.

    folders are the keys of all folders with files. Raises UserError if the folders may be splits or classes.
    """
    parts = [folder.split("/") for folder in folders]
    tops = sorted({part[0] for part in parts}, key=natural_key)
    deep = {part[0] for part in parts if len(part) > 1}  # these contain folders that can be classes
    by_rest: dict[str, dict[str, str]] = collections.defaultdict(dict)
    for top in tops:
        if name := read_split(top):
            by_rest[name.rest][top] = name.split
    # A name such as seg_train is a split only beside others like it: bullet_train alone is a class.
    splits = {
        top: split
        for rest, found in by_rest.items()
        if layout == SPLIT_FOLDERS or not rest or ("train" in found.values() and len({*found.values()}) > 1)
        for top, split in found.items()
    }
    if layout != SPLIT_FOLDERS and [*splits] == [top for top in splits if top.lower() == "train" and top not in deep]:
        _check_inner(root, tops, parts)
        return {}  # no split folder, or a class of trains beside other classes
    if not splits:
        raise UserError(
            f"data.layout is {layout}, but no folder in {root!r} is named as a split: name them train, val and test, "
            f"or set data.layout to {CLASSES}."
        )
    others = [top for top in tops if top not in splits]
    twice = [split for split in sorted({*splits.values()}) if [*splits.values()].count(split) > 1]
    bare = [top for top, split in splits.items() if split == "train" and top not in deep]
    if others:
        doubt, cure = f"{others[0]!r} beside them is not", "name that in data.exclude"
    elif "train" not in splits.values():
        doubt, cure = "none of them as the train split", "rename the one to train on"
    elif twice:
        doubt, cure = f"several of them as the {twice[0]} split", "put their images into one"
    elif bare:
        doubt, cure = f"{bare[0]!r} has no class folders with images", "make one for each class in it"
    elif layout == AUTO and len(by_rest) > 1:
        doubt, cure = "each in its own way", f"set data.layout to {SPLIT_FOLDERS}"
    else:
        return splits
    shown = ", ".join(map(repr, [*splits][:5]))
    verb = "is named as a split" if len(splits) == 1 else "are named as splits"
    raise UserError(
        f"Of the folders in {root!r}, {shown} {verb}, but {doubt}: if they are splits, {cure}, and if they are "
        f"classes, set data.layout to {CLASSES}."
    )


def _check_inner(root: str, tops: Sequence[str], parts: list[list[str]]) -> None:
    """Raise UserError for splits below classes, as in cat/train: their images would be mixed."""
    inner = {part[1]: part[0] for part in sorted(parts, reverse=True) if len(part) > 1}
    splits = {name: found.split for name in inner if (found := read_split(name)) and not found.rest}
    if "train" in splits.values() and len({*splits.values()}) > 1:
        first = next(name for name in splits if splits[name] == "train")
        place = os.path.join(root, inner[first])
        cure = f"set data.path to {place!r}" if len(tops) == 1 else "put the folders of the splits above the classes"
        raise UserError(
            f"{os.path.join(place, first)!r} is named as a split, but is in a folder that is read as a class: if it "
            f"is a split, {cure}, and if not, set data.layout to {CLASSES}."
        )


def check_evaluation(words: Iterable[str], place: str) -> None:
    """Raise UserError if one split is named eval and another test: then eval may mean val."""
    tests = sorted({word for word in words if SPLIT_WORDS.get(word) == "test"})
    evaluations, others = [[word for word in tests if (word in EVALUATION) == wanted] for wanted in (True, False)]
    if evaluations and others:
        raise UserError(
            f"{place!r} has a split {evaluations[0]!r} and a split {others[0]!r}, which both mean test: write val for "
            f"the one that training may use."
        )
