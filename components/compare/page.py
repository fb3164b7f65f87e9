"""A comparison for a person: its sentence and tables, its page, and the same as a section of the report."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from components.compare.compare import ClassChange, Difference
from components.compare.predictions import Pair
from components.errors import DamagedFile
from components.pages.html import load_template
from components.run_dir import RunDir
from components.shards.pictures import collect_pictures
from components.storage.files import read_json, write_text
from components.storage.places import as_path
from components.terminal.text import format_bytes

# Images that a page shows of those gained, and of those lost.
PAIRS_SHOWN = 24


def describe_change(difference: Difference) -> str:
    """Return the result as text: difference of the accuracies with its interval, images gained and lost, p value."""
    low, high = difference.interval
    return (
        f"On the {difference.images:,} shared test images the accuracy of the second model differs by "
        f"{100 * difference.difference:+.2f} points (95 % interval {100 * low:+.2f} to {100 * high:+.2f}): "
        f"{len(difference.gained):,} images gained, {len(difference.lost):,} lost, p = "
        f"{format_p(difference.p_value)} by McNemar's exact test."
    )


def format_p(p_value: float) -> str:
    """Return a p value as text."""
    return f"{p_value:.4f}" if p_value >= 0.0001 else f"{p_value:.1e}"


def list_rows(difference: Difference) -> list[tuple[str, list[str]]]:
    """Return the rows of a table of both models: a title, and a cell for each of them."""
    models = difference.first, difference.second
    speeds = [model.images_per_second for model in models]
    return [
        ("export", [model.export for model in models]),
        ("backbone", [model.backbone for model in models]),
        ("accuracy on the shared test images", [f"{accuracy:.4f}" for accuracy in difference.accuracies]),
        ("accuracy on all its test images", [f"{model.accuracy:.4f}" for model in models]),
        ("test images", [f"{model.test_images:,}" for model in models]),
        ("size of the SavedModel", [format_bytes(model.bytes) for model in models]),
        ("images per second in extract", [f"{speed:,.0f}" if speed else "not recorded" for speed in speeds]),
    ]


def format_class(row: ClassChange) -> tuple[str, ...]:
    """Return the cells of a class: name, images, recall of each model, images gained and lost, corrected p value."""
    recalls = f"{row.first_recall:.3f}", f"{row.second_recall:.3f}"
    return row.label, f"{row.images:,}", *recalls, f"{row.gained:,}", f"{row.lost:,}", format_p(row.p_value)


def list_shown(difference: Difference) -> list[Pair]:
    """Return the images lost and gained that a page shows."""
    return [pair for pairs in (difference.lost, difference.gained) for pair in pairs[:PAIRS_SHOWN]]


def show_difference(difference: Difference) -> dict[str, Any]:
    """Return the variables of the template of a comparison, which also needs a macro `picture`."""
    return {
        "change": describe_change(difference),
        "comparison": difference,
        "comparison_rows": list_rows(difference),
        "comparison_classes": [format_class(row) for row in difference.classes],
        "pairs_shown": PAIRS_SHOWN,
    }


def write_difference_page(difference: Difference, output: Path) -> None:
    """Write the page of a comparison, with pictures from the run directory of one of the models."""
    page = load_template("comparison.html.j2").render(pictures=_collect(difference), **show_difference(difference))
    write_text(output, page)


def _collect(difference: Difference) -> dict[str, str]:
    """Return the data URIs of the images shown by their paths in the second run; of a run without images none."""
    for side, model in ((1, difference.second), (0, difference.first)):
        run = RunDir(as_path(model.export).parent.parent)
        with suppress(FileNotFoundError, DamagedFile):
            shards = read_json(run.stages / "ingest.json", "outcome")["outcome"]["shards"]
            paths = {pair[side].path: pair[1].path for pair in list_shown(difference)}
            found = collect_pictures([*paths], [], run.examples, shards)
            return {paths[path]: uri for path, uri in found.items()}
    return {}
