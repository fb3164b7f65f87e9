"""Print the results of commands: a run, a plan, a curve, a comparison or converted models as text, or any as JSON."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.features import SPLITS
from components.terminal.text import format_bytes, print_line, printable

if TYPE_CHECKING:
    from components.compare.compare import Difference
    from components.curve.page import CurvePoint
    from components.export.convert import Comparison
    from components.plan.estimate import RunPlan

PrintJson = Callable[[Any], None]
# A summary of more than MAX_CLASSES_SHOWN classes names LISTED_CLASSES of them.
MAX_CLASSES_SHOWN, LISTED_CLASSES = 20, 10


@contextmanager
def json_output(asked: bool) -> Iterator[PrintJson]:
    """Yield a function that prints a document as one line of JSON; meanwhile all other stdout goes to stderr.

    Unless asked, the function prints nothing and stdout stays the same.
    """
    if not asked:
        yield lambda document: None
        return
    stdout = sys.stdout
    stdout.flush()
    # TensorFlow's C++ bypasses sys.stdout, so redirect the file descriptor too, unless sys.stdout is another stream.
    own = os.dup(1) if _is_descriptor(stdout, 1) else None
    stream = stdout if own is None else os.fdopen(own, "w", encoding="utf-8")
    if own is not None:
        os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield lambda document: print(json.dumps(document), file=stream, flush=True)
    finally:
        if own is not None:
            stdout.flush()
            os.dup2(own, 1)
            stream.close()


def _is_descriptor(stream: Any, number: int) -> bool:
    try:
        return bool(stream.fileno() == number)
    except (OSError, ValueError):  # a stream in memory
        return False


def _print_table(texts: Sequence[str], numbers: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows under columns of text and right-aligned numbers; further cells get a column without a name."""
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    columns = [*(Column(name, overflow="fold") for name in texts), *(Column(name, justify="right") for name in numbers)]
    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    Console().print(table)


def _print_notes(notes: Iterable[str]) -> None:
    for text in notes:
        print()
        print_line(f"note: {text}")


def print_summary(record: dict[str, Any], report: Path | None, quiet: bool) -> None:
    """Print a table of stages, the classes, notes and the verdict; if quiet, only the verdict."""
    if not quiet:
        counts = ("items", "reused", "computed")
        rows = [
            [
                name,
                *(f"{stage[count]:,}" for count in counts),
                f"{stage['seconds']:.1f}",
                "as before" if stage["skipped"] else "",
            ]
            for name, stage in record["stages"].items()
        ]
        _print_table(["stage"], [*counts, "seconds"], rows)
        if record["classes"]:
            print()
            print_line(format_classes(record["classes"]))
            print_line(format_splits(record["counts"]))
        _print_notes(record["notes"])
    if record["metrics"]:
        if not quiet:
            print()
            print_line("  ".join(f"{name} {value:.4f}" for name, value in record["metrics"].items()))
        print_line(": ".join([record["verdict"], *filter(None, ["; ".join(record["reasons"])])]))
    if report and not quiet:
        print_line(f"report: {report}")


def format_classes(images: Mapping[str, int]) -> str:
    """Return the number of images per class; of many classes the first, the smallest and the largest."""
    shown = [f"{_show_name(text)} ({images[text]:,})" for text in images]
    if len(shown) > MAX_CLASSES_SHOWN:
        small, large = (_show_name(choose(images, key=images.__getitem__)) for choose in (min, max))
        extremes = (
            f"the fewest images in {small} ({min(images.values()):,}), the most in {large} ({max(images.values()):,})"
        )
        shown[LISTED_CLASSES:] = [f"and {len(shown) - LISTED_CLASSES:,} more: {extremes}"]
    return f"{len(images):,} classes: {', '.join(shown)}"


def format_splits(counts: Mapping[str, int]) -> str:
    """Return the number of images, and the number per split."""
    return f"{counts['written']:,} images: {', '.join(f'{split} {counts[split]:,}' for split in SPLITS)}"


def _show_name(text: str) -> str:
    """Return a name, quoted if it has invisible characters or spaces at its ends."""
    return text if text == " ".join(text.split()) and text.isprintable() else repr(text)


def print_plan(plan: RunPlan, quiet: bool) -> None:
    """Print a table of stages, memory, notes and the totals; if quiet, only the totals."""
    if not quiet:
        rows = [
            [
                *(stage, "workers" if stage in plan.on_workers else "here"),
                *map(format_seconds, (cost.seconds, cost.core_seconds)),
                format_bytes(cost.written),
            ]
            for stage, cost in plan.stages.items()
        ]
        _print_table(["stage", "where"], ["time", "core time", "written"], rows)
        print()
        print_line(f"memory of the command: {format_bytes(plan.driver_bytes)}")
        measured = " and ".join(f"{images:,}" for images in plan.measured)
        print_line(f"measured: runs of {measured} images on {plan.cores} cores")
        _print_notes(plan.notes)
        print()
    price = "" if plan.cost is None else f", cost {plan.cost:,.2f}"
    print_line(f"{plan.images:,} images: {format_seconds(plan.seconds)}{price}")


def format_seconds(seconds: float) -> str:
    """Return seconds as text in s, min or h."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def print_curve(points: Sequence[CurvePoint], findings: Sequence[str], page: Path, quiet: bool) -> None:
    """Print a table of points, notes and the path of the page; if quiet, only the path."""

    from components.curve.page import format_point

    if not quiet:
        columns = ["images per class", "accuracy %", "mean class accuracy %"]
        _print_table(["backbone"], columns, map(format_point, points))
        _print_notes(findings)
    print_line(f"curve: {page}")


def print_difference(difference: Difference, page: Path | None, quiet: bool) -> None:
    """Print both models, the classes that moved most, notes, the result, the path of the page; if quiet, the result."""
    from components.compare.page import COLUMNS, describe_change, list_classes, list_models

    if not quiet:
        _print_table(["", "first", "second"], [], [*list_models(difference), ["", "", ""]])
        _print_table(COLUMNS[:1], COLUMNS[1:], [*list_classes(difference)[:LISTED_CLASSES], [""] * len(COLUMNS)])
        _print_notes(difference.notes)
    print_line(describe_change(difference))
    if page and not quiet:
        print_line(f"page: {page}")


def print_comparison(comparison: Comparison, folder: Path, quiet: bool) -> None:
    """Print how converted models compare with their export, and their folder; if quiet, only the folder."""
    if not quiet:
        print_line(f"SavedModel  accuracy {comparison.accuracy:.4f} on {comparison.images:,} test images")
        for name, model in comparison.models.items():
            size = f"{model.bytes / 2**20:.1f} MiB"
            print_line(f"{name:10}  accuracy {model.accuracy:.4f}  agreement {model.agreement:.4f}  {size}")
    print_line(f"models: {folder}")
