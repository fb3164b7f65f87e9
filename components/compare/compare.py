"""Compare two exported models on the test images that both have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from components.compare.predictions import Answered, Pair, Shared, pair_answers, read_predictions
from components.errors import DamagedFile, UserError
from components.export.export import read_facts
from components.metrics.paired import correct_holm, difference_interval, mcnemar_test
from components.run_dir import RunDir
from components.storage.files import read_json
from components.storage.places import list_files
from components.terminal.text import join_names

# The files of a SavedModel; a version folder has others beside it.
SAVED_FILES = ("saved_model.pb", "variables/", "assets/")


@dataclass(frozen=True)
class ComparedModel:
    """An export: its backbone, its accuracy on all its test images, and what the other model does not have.

    bytes is the size of the SavedModel; images_per_second is the speed at which its run computed all bottlenecks, None
    where no record of that is left.
    """

    export: str
    backbone: str
    bytes: int
    images_per_second: float | None
    test_images: int
    accuracy: float
    images_alone: int
    classes_alone: list[str]


class ClassChange(NamedTuple):
    """A class of shared images: recall of each model, images gained and lost, McNemar's p value corrected by Holm."""

    label: str
    images: int
    first_recall: float
    second_recall: float
    gained: int
    lost: int
    p_value: float


@dataclass(frozen=True)
class Difference:
    """Two models on the test images that both have under one class.

    accuracies are those of first and second, difference is the second less the first, interval its 95 % interval,
    p_value that of McNemar's exact test. gained are the images that only second answers right, lost those that only
    first does, the most probable wrong answer first. classes are those with such images, the largest change first.
    """

    first: ComparedModel
    second: ComparedModel
    images: int
    accuracies: tuple[float, float]
    difference: float
    interval: tuple[float, float]
    p_value: float
    gained: list[Pair]
    lost: list[Pair]
    classes: list[ClassChange]
    notes: list[str]

    def describe(self) -> dict[str, Any]:
        """Return all values for JSON."""
        rows = {kind: [_describe_pair(pair) for pair in getattr(self, kind)] for kind in ("gained", "lost")}
        return {**asdict(self), **rows, "classes": [row._asdict() for row in self.classes]}


def _describe_pair(pair: Pair) -> dict[str, Any]:
    answers = {
        name: {"label": row.label, "probability": row.probability}
        for name, row in zip(("first", "second"), pair, strict=True)
    }
    return {"path": pair[1].path, "actual": pair[1].actual, **answers}


def compare_exports(first: Path, second: Path) -> Difference:
    """Compare two version folders; raises UserError where answers are missing, and where no test image is shared."""
    answers = read_predictions(first), read_predictions(second)
    shared = pair_answers(*answers)
    if not shared.pairs:
        raise UserError(
            f"'{first}' and '{second}' have no test image of one class in common: compare models whose test splits "
            f"share images."
        )
    images, gained, lost = len(shared.pairs), len(shared.gained), len(shared.lost)
    models = measure_model(first, second, answers[0], shared), measure_model(second, first, answers[1], shared)
    return Difference(
        *models,
        images=images,
        accuracies=(
            measure_accuracy([old for old, _ in shared.pairs]),
            measure_accuracy([new for _, new in shared.pairs]),
        ),
        difference=(gained - lost) / images,
        interval=difference_interval(gained, lost, images),
        p_value=mcnemar_test(gained, lost),
        gained=sorted(shared.gained, key=lambda pair: -pair[0].probability),
        lost=sorted(shared.lost, key=lambda pair: -pair[1].probability),
        classes=compare_classes(shared),
        notes=list(describe_scope(models, shared.relabelled)),
    )


def measure_accuracy(rows: Sequence[Answered]) -> float:
    """Return the fraction of right answers."""
    return sum(row.right for row in rows) / len(rows)


def measure_model(export: Path, other: Path, rows: Sequence[Answered], shared: Shared) -> ComparedModel:
    """Return what is known of an export with these answers, and what it has that another one has not."""
    facts, classes = read_facts(export), read_facts(other)["classes"]
    return ComparedModel(
        str(export),
        facts["backbone"]["name"],
        sum(status.size for name, status in list_files(export).items() if name.startswith(SAVED_FILES)),
        read_speed(RunDir(export.parent.parent), facts["backbone"]["id"]),
        len(rows),
        measure_accuracy(rows),
        len(rows) - len(shared.pairs) - len(shared.relabelled),
        [label for label in facts["classes"] if label not in set(classes)],
    )


def read_speed(run: RunDir, backbone_id: str) -> float | None:
    """Return the images per second of the last extraction with a backbone, None if it reused any or has no record."""
    for stage in ("extract", "reextract"):
        with suppress(FileNotFoundError, DamagedFile, KeyError):
            record = read_json(run.stages / f"{stage}.json", "outcome", "seconds")
            outcome, work = record["outcome"], record["outcome"]["work"]
            if outcome["backbone_id"] == backbone_id and work["computed"] == work["items"] and record["seconds"]:
                return float(work["items"] / record["seconds"])
    return None


def compare_classes(shared: Shared) -> list[ClassChange]:
    """Return the classes with an image gained or lost; their p values are corrected for the number of these classes.

    A class without such an image has a p value of 1 whatever its images are, so it needs no correction (Tarone,
    Biometrics 46, 1990).
    """
    images, gained, lost = (
        Counter(row.actual for _, row in pairs) for pairs in (shared.pairs, shared.gained, shared.lost)
    )
    first = Counter(row.actual for row, _ in shared.pairs if row.right)
    labels = sorted({*gained, *lost}, key=lambda label: (-abs(gained[label] - lost[label]), -gained[label], label))
    p_values = correct_holm([mcnemar_test(gained[label], lost[label]) for label in labels])
    return [
        ClassChange(
            label,
            images[label],
            first[label] / images[label],
            (first[label] + gained[label] - lost[label]) / images[label],
            gained[label],
            lost[label],
            p_value,
        )
        for label, p_value in zip(labels, p_values, strict=True)
    ]


def describe_scope(models: Sequence[ComparedModel], relabelled: Sequence[Pair]) -> Iterator[str]:
    """Yield a sentence for each difference of test splits and classes, which says what is compared."""
    for name, model in zip(("first", "second"), models, strict=True):
        if model.images_alone:
            yield (
                f"{model.images_alone:,} of the {model.test_images:,} test images of the {name} model are none of the "
                f"other: they are left out."
            )
        if model.classes_alone:
            yield f"Only the {name} model has these classes: {join_names(model.classes_alone)}."
    if relabelled:
        old, new = relabelled[0]
        yield (
            f"The class of {len(relabelled):,} shared test images differs between the runs, such as '{new.path}' "
            f"('{old.actual}', then '{new.actual}'): they are left out."
        )
