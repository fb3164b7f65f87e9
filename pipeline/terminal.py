"""What a command says: the summary of a run, a plan, the table of a curve, or one JSON document for scripts."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.features import SPLITS
from components.terminal.text import printable

if TYPE_CHECKING:
    from components.curve.page import CurvePoint
    from components.export.tflite import Comparison
    from components.plan.estimate import Plan

Answer = Callable[[Any], None]
# More classes than these are not all named in a summary, but so many of them.
MOST_CLASSES, LISTED_CLASSES = 20, 10


@contextmanager
def answering_in_json(asked: bool) -> Iterator[Answer]:
    """Yield what prints a document as a line of JSON; while the block runs all else on stdout goes to stderr.

    Where JSON is not asked for, it prints nothing and stdout stays as it is.
    """
    if not asked:
        yield lambda document: None
        return
    stdout = sys.stdout
    stdout.flush()
    # TensorFlow's C++ writes past sys.stdout, so that the descriptor itself is turned, where it is the process's own.
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


def print_line(text: str) -> None:
    """Print a line as it is, however long, to stdout."""
    encoding = sys.stdout.encoding or "utf-8"
    print(printable(text).encode(encoding, "backslashreplace").decode(encoding))


def print_summary(record: dict[str, Any], report: Path | None, quiet: bool) -> None:
    """Print a line a stage, the classes, notes, then the verdict; quiet, the verdict alone."""
    from rich.console import Console
    from rich.table import Table

    if not quiet:
        table = Table("stage", box=None, pad_edge=False)
        for column in ("items", "reused", "computed", "seconds"):
            table.add_column(column, justify="right")
        table.add_column("")
        for name, stage in record["stages"].items():
            numbers = [f"{stage[column]:,}" for column in ("items", "reused", "computed")]
            table.add_row(name, *numbers, f"{stage['seconds']:.1f}", "as before" if stage["skipped"] else "")
        Console().print(table)
        if record["classes"]:
            print()
            print_line(describe_classes(record["classes"]))
            print_line(describe_splits(record["counts"]))
        for text in record["notes"]:
            print()
            print_line(f"note: {text}")
    if record["metrics"]:
        if not quiet:
            print()
            print_line("  ".join(f"{name} {value:.4f}" for name, value in record["metrics"].items()))
        print_line(": ".join([record["verdict"], *filter(None, ["; ".join(record["reasons"])])]))
    if report and not quiet:
        print_line(f"report: {report}")


def describe_classes(images: Mapping[str, int]) -> str:
    """Return the classes with the images of each, of many classes the first, the smallest and the largest."""
    shown = [f"{_show_name(text)} ({images[text]:,})" for text in images]
    if len(shown) > MOST_CLASSES:
        small, large = (_show_name(choose(images, key=images.__getitem__)) for choose in (min, max))
        extremes = (
            f"the fewest images in {small} ({min(images.values()):,}), the most in {large} ({max(images.values()):,})"
        )
        shown[LISTED_CLASSES:] = [f"and {len(shown) - LISTED_CLASSES:,} more: {extremes}"]
    return f"{len(images):,} classes: {', '.join(shown)}"


def describe_splits(counts: Mapping[str, int]) -> str:
    """Return how many images there are, and how many in each split."""
    return f"{counts['written']:,} images: {', '.join(f'{split} {counts[split]:,}' for split in SPLITS)}"


def _show_name(text: str) -> str:
    """Return a name as it is, or quoted where its ends cannot be seen."""
    return text if text == " ".join(text.split()) and text.isprintable() else repr(text)


def print_plan(plan: Plan, quiet: bool) -> None:
    """Print a line a stage, memory and notes, then the totals; quiet, these alone."""
    from rich.console import Console
    from rich.table import Table

    if not quiet:
        table = Table("stage", "where", box=None, pad_edge=False)
        for column in ("time", "core time", "written"):
            table.add_column(column, justify="right")
        for stage, cost in plan.stages.items():
            times = map(format_seconds, (cost.seconds, cost.core_seconds))
            place = "workers" if stage in plan.on_workers else "here"
            table.add_row(stage, place, *times, format_bytes(cost.written))
        Console().print(table)
        print()
        print_line(f"memory of the command: {format_bytes(plan.driver_bytes)}")
        measured = " and ".join(f"{images:,}" for images in plan.measured)
        print_line(f"measured: runs of {measured} images on {plan.cores} cores")
        for text in plan.notes:
            print()
            print_line(f"note: {text}")
        print()
    price = "" if plan.cost is None else f", cost {plan.cost:,.2f}"
    print_line(f"{plan.images:,} images: {format_seconds(plan.seconds)}{price}")


def format_seconds(seconds: float) -> str:
    """Return a time in the unit that suits its size."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def format_bytes(size: float) -> str:
    """Return a number of bytes in the unit that suits its size."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:,.1f} TiB"


def print_curve(points: Sequence[CurvePoint], findings: Sequence[str], page: Path, quiet: bool) -> None:
    """Print a line a point, notes, then where the page lies; quiet, that alone."""
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    from components.curve.page import format_point

    if not quiet:
        table = Table(Column("backbone", overflow="fold"), box=None, pad_edge=False)
        for column in ("images a class", "accuracy %", "mean class accuracy %"):
            table.add_column(column, justify="right")
        for point in points:
            table.add_row(*(Text(printable(cell)) for cell in format_point(point)))
        Console().print(table)
        for text in findings:
            print()
            print_line(f"note: {text}")
    print_line(f"curve: {page}")


def print_comparison(comparison: Comparison, folder: Path, quiet: bool) -> None:
    """Print how each converted model compares with its export, then where they lie; quiet, that alone."""
    if not quiet:
        print_line(f"SavedModel  accuracy {comparison.accuracy:.4f} on {comparison.images:,} test images")
        for name, model in comparison.models.items():
            size = f"{model.bytes / 2**20:.1f} MiB"
            print_line(f"{name:10}  accuracy {model.accuracy:.4f}  agreement {model.agreement:.4f}  {size}")
    print_line(f"models: {folder}")
