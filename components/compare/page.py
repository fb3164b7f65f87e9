"""A comparison for a person: its sentence and tables, its page, and the same as a section of the report."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from components.compare.compare import Difference
from components.errors import DamagedFile
from components.pages.html import load_template
from components.run_dir import RunDir
from components.shards.pictures import collect_pictures
from components.storage.files import read_json, write_text
from components.storage.places import as_path
from components.terminal.text import format_bytes

# Images that a page shows of those gained, and of those lost.
SHOWN = 24
COLUMNS = ("class", "images", "recall, first", "recall, second", "gained", "lost", "p")


def describe_change(difference: Difference) -> str:
    """Return the result as text: difference of the accuracies with its interval, images gained and lost, p value."""
    change, low, high = (100 * value for value in (difference.difference, *difference.interval))
    return (
        f"On the {difference.images:,} shared test images the accuracy of the second model differs by {change:+.2f} "
        f"points (95 % interval {low:+.2f} to {high:+.2f}): {len(difference.gained):,} images gained, "
        f"{len(difference.lost):,} lost, p = {difference.p_value:.3g} by McNemar's exact test."
    )


def list_models(difference: Difference) -> list[list[str]]:
    """Return the rows of a table of both models: a title, and a cell for each of them."""
    models = difference.first, difference.second
    speeds = [f"{model.images_per_second:,.0f}" if model.images_per_second else "not recorded" for model in models]
    return [
        ["export", *(model.export for model in models)],
        ["backbone", *(model.backbone for model in models)],
        ["accuracy on the shared test images", *(f"{model.accuracy:.4f}" for model in models)],
        ["accuracy on all its test images", *(f"{model.own_accuracy:.4f}" for model in models)],
        ["test images", *(f"{model.test_images:,}" for model in models)],
        ["size of the SavedModel", *(format_bytes(model.bytes) for model in models)],
        ["images per second in extract", *speeds],
    ]


def list_classes(difference: Difference) -> list[list[str]]:
    """Return the rows of a table with COLUMNS."""
    form = "{label}|{images:,}|{first_recall:.3f}|{second_recall:.3f}|{gained:,}|{lost:,}|{p_value:.3g}"
    return [form.format(**row).rsplit("|", len(COLUMNS) - 1) for row in difference.classes]


def list_shown(difference: Difference) -> list[dict[str, Any]]:
    """Return the images lost and gained that a page shows."""
    return difference.lost[:SHOWN] + difference.gained[:SHOWN]


def show_difference(difference: Difference) -> dict[str, Any]:
    """Return the variables of the template of a comparison, which also needs a macro `picture`."""
    return {
        "difference": difference,
        "change": describe_change(difference),
        "compared_models": list_models(difference),
        "changed_classes": [list(COLUMNS), *list_classes(difference)],
        "most_shown": SHOWN,
    }


def write_difference_page(difference: Difference, output: Path) -> None:
    """Write the page of a comparison, with pictures from the run directory of the second model, or of the first."""
    pictures: dict[str, str] = {}
    for side, model in (("first", difference.first), ("second", difference.second)):
        run = RunDir(as_path(model.export).parent.parent)
        paths = {image[f"{side}_path"]: image["second_path"] for image in list_shown(difference)}
        with suppress(FileNotFoundError, DamagedFile):
            shards = read_json(run.stages / "ingest.json", "outcome")["outcome"]["shards"]
            found = collect_pictures([*paths], [], run.examples, shards)
            pictures |= {paths[path]: uri for path, uri in found.items()}
    write_text(output, load_template("comparison.html.j2").render(pictures=pictures, **show_difference(difference)))
