"""Compare two exported models on the test images that both have."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from components.compare.predictions import TEST_PREDICTIONS, pair_answers, read_answers
from components.errors import DamagedFile, UserError
from components.export.export import read_facts
from components.metrics.paired import correct_holm, difference_interval, mcnemar_test
from components.run_dir import RunDir
from components.storage.files import read_json
from components.storage.places import list_files
from components.terminal.text import join_names

# The files of a SavedModel; a version folder has others beside it.
SAVED_FILES = ("saved_model.pb", "variables/", "assets/")
# The keys of an image gained or lost.
CHANGE = [f"{side}_{key}" for side in ("first", "second") for key in ("path", "label", "probability")]


@dataclass(frozen=True)
class ComparedModel:
    """An export: accuracy on the shared and on all its test images, images and classes that the other does not have.

    bytes is the size of the SavedModel; images_per_second is the speed at which its run computed all bottlenecks, None
    where no record of that is left.
    """

    export: str
    backbone: str
    bytes: int
    images_per_second: float | None
    accuracy: float
    own_accuracy: float
    test_images: int
    images_alone: int
    classes_alone: list[str]


@dataclass(frozen=True)
class Difference:
    """Two models on the images that both test splits have under one class.

    difference is the accuracy of second less that of first, interval its 95 % interval, p_value that of McNemar's
    exact test. gained are the images that only second answers right, lost those that only first does: actual and the
    keys of CHANGE, the most probable wrong answer first. classes are those with such images, the largest change first.
    """

    first: ComparedModel
    second: ComparedModel
    images: int
    difference: float
    interval: tuple[float, float]
    p_value: float
    gained: list[dict[str, Any]]
    lost: list[dict[str, Any]]
    classes: list[dict[str, Any]]
    notes: list[str]


def compare_exports(first: Path, second: Path) -> Difference:
    """Compare two version folders; raises UserError where answers are missing, and where no test image is shared."""
    answers = [read_answers(export / TEST_PREDICTIONS) for export in (first, second)]
    pairs = pair_answers(*answers)
    if pairs.empty:
        raise UserError(
            f"'{first}' and '{second}' have no test image of one class in common: compare models whose test splits "
            f"share images."
        )
    old, new = (
        _measure(export, own, pairs[f"{side}_label"] == pairs.actual, other)
        for side, export, own, other in zip(("first", "second"), (first, second), answers, (second, first), strict=True)
    )
    shared = {*answers[0].sha256} & {*answers[1].sha256}
    counts = int(pairs.gained.sum()), int(pairs.lost.sum())

    def list_images(kind: str, wrong: str) -> list[dict[str, Any]]:
        images = pairs[pairs[kind]].sort_values(f"{wrong}_probability", ascending=False)
        rows: list[dict[str, Any]] = images[["actual", *CHANGE]].to_dict("records")
        return rows

    return Difference(
        old,
        new,
        len(pairs),
        (counts[0] - counts[1]) / len(pairs),
        difference_interval(*counts, len(pairs)),
        mcnemar_test(*counts),
        list_images("gained", "first"),
        list_images("lost", "second"),
        compare_classes(pairs),
        [*describe_scope({"first": old, "second": new}, len(shared - {*pairs.sha256}))],
    )


def _measure(export: Path, answers: pd.DataFrame, right: pd.Series, other: Path) -> ComparedModel:
    facts, others = read_facts(export), read_facts(other)["classes"]
    return ComparedModel(
        str(export),
        facts["backbone"]["name"],
        sum(status.size for name, status in list_files(export).items() if name.startswith(SAVED_FILES)),
        read_speed(RunDir(export.parent.parent), facts["backbone"]["id"]),
        float(right.mean()),
        float((answers.label == answers.actual).mean()),
        len(answers),
        len(answers) - len(right),
        [label for label in facts["classes"] if label not in others],
    )


def read_speed(run: RunDir, backbone_id: str) -> float | None:
    """Return the images per second of the last extraction with a backbone, None if it reused any or has no record."""
    for stage in ("extract", "reextract"):
        with suppress(FileNotFoundError, DamagedFile):
            record = read_json(run.stages / f"{stage}.json", "outcome", "seconds")
            outcome, work = record["outcome"], record["outcome"]["work"]
            if outcome["backbone_id"] == backbone_id and work["computed"] == work["items"]:
                return float(work["items"] / record["seconds"])
    return None


def compare_classes(pairs: pd.DataFrame) -> list[dict[str, Any]]:
    """Return label, images, both recalls, images gained and lost and p_value of each class with such images.

    p values are McNemar's, corrected for the number of these classes. Any other class has a p value of 1 in any case,
    so it needs no correction (Tarone, Biometrics 46, 1990).
    """
    right = {f"{side}_recall": pairs[f"{side}_label"] == pairs.actual for side in ("first", "second")}
    groups = pairs.assign(**right).groupby("actual")
    table = groups.agg({"gained": "sum", "lost": "sum", **dict.fromkeys(right, "mean")})
    table = table.assign(images=groups.size(), change=-(table.gained - table.lost).abs())
    table = table[table.gained + table.lost > 0].sort_values("change", kind="stable").drop(columns="change")
    p_values = correct_holm([mcnemar_test(*row) for row in zip(table.gained, table.lost, strict=True)])
    rows: list[dict[str, Any]] = table.assign(p_value=p_values).rename_axis("label").reset_index().to_dict("records")
    return rows


def describe_scope(models: dict[str, ComparedModel], relabelled: int) -> Iterator[str]:
    """Yield a sentence for each difference of test splits and classes, which says what is compared."""
    for name, model in models.items():
        if model.images_alone:
            yield (
                f"{model.images_alone:,} of the {model.test_images:,} test images of the {name} model are none of the "
                f"other, or not of the same class: they are left out."
            )
        if model.classes_alone:
            yield f"Only the {name} model has these classes: {join_names(model.classes_alone)}."
    if relabelled:
        yield f"Among these are {relabelled:,} that are test images of both, but with another class in each."
