"""Compare two exported models on the test images that both have."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from components.compare.predictions import MARKS, pair_answers, read_kept_answers
from components.errors import DamagedFile, UserError
from components.export.versions import SAVED_MODEL, read_facts
from components.metrics.paired import correct_holm, difference_interval, mcnemar_test
from components.run_dir import RunDir
from components.storage.files import read_json
from components.storage.places import list_files
from components.terminal.text import join_names


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
    exact test. gained are the images that only second answers right, lost those that only first does, in the columns of
    pair_answers, the most probable wrong answer first. classes are those with such images, the largest change first.
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
    answers = [read_kept_answers(export) for export in (first, second)]
    pairs = pair_answers(*answers)
    if pairs.empty:
        raise UserError(
            f"'{first}' and '{second}' have no test image of one class in common: compare models whose test splits "
            f"share images."
        )
    old = _measure(first, answers[0], pairs.first_label == pairs.actual, second)
    new = _measure(second, answers[1], pairs.second_label == pairs.actual, first)
    gained = pairs[pairs.gained].sort_values("first_probability", ascending=False).drop(columns=MARKS)
    lost = pairs[pairs.lost].sort_values("second_probability", ascending=False).drop(columns=MARKS)
    relabelled = {*answers[0].sha256} & {*answers[1].sha256} - {*pairs.sha256}
    return Difference(
        old,
        new,
        len(pairs),
        (len(gained) - len(lost)) / len(pairs),
        difference_interval(len(gained), len(lost), len(pairs)),
        mcnemar_test(len(gained), len(lost)),
        gained.to_dict("records"),
        lost.to_dict("records"),
        compare_classes(pairs),
        [*describe_scope({"first": old, "second": new}, len(relabelled))],
    )


def _measure(export: Path, answers: pd.DataFrame, right: pd.Series, other: Path) -> ComparedModel:
    facts, others = read_facts(export), read_facts(other)["classes"]
    saved = (SAVED_MODEL, "variables/", "assets/")
    return ComparedModel(
        str(export),
        facts["backbone"]["name"],
        sum(status.size for name, status in list_files(export).items() if name.startswith(saved)),
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
    groups = pairs.assign(images=1, **right).groupby("actual")
    table = groups.agg({"images": "sum", **dict.fromkeys(right, "mean"), "gained": "sum", "lost": "sum"})
    table = table[table.gained + table.lost > 0].rename_axis("label").reset_index()
    table["p_value"] = correct_holm([mcnemar_test(*row) for row in table[["gained", "lost"]].to_numpy().tolist()])
    change = (table.lost - table.gained).abs().sort_values(ascending=False, kind="stable")
    rows: list[dict[str, Any]] = table.loc[change.index].to_dict("records")
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
