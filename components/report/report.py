"""Report: csv and json files, and one self-contained page that shows the model to a person."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from components.audit.audit import MAP, NEAREST
from components.backbones.spec import Spec
from components.curve.page import format_point, plot_curve, summarise_curve
from components.evaluate.evaluate import BLESSED, find_last_blessed
from components.metrics.calibration import confidence_interval
from components.metrics.confusion import ClassRow, most_confused, order_by_confusion, score_classes
from components.outcomes import Export, Report, Results, TunedHead, Work
from components.pages.figures import plot_confusion, plot_history, plot_map
from components.pages.html import embed_figure, load_plotly, load_template
from components.report.card_sections import describe_card
from components.report.data_health import Row, collect_health
from components.report.measured import describe_leaks, read_measured
from components.report.model_card import write_card
from components.report.provenance import list_versions
from components.report.reliability import plot_calibration, plot_coverage
from components.run_dir import MODEL_CARD, RunDir
from components.shards.page_pictures import collect_pictures
from components.storage.files import write_json
from components.storage.ownership import replacing_folder
from components.storage.tables import read_csv, write_csv

GALLERY_IMAGES = 9
MISTAKES_SHOWN = 60
# Test images that the page can list behind its numbers; with so many it has 11 MB (benchmarks/large_report.py).
MOST_IN_PAGE = 10_000


@dataclass(frozen=True)
class Verdict:
    """What the page says first: the interval of the accuracy, and the last blessed model to compare with, if any."""

    low: float
    high: float
    former: str
    former_accuracy: float | None


def write_report(
    results: Results,
    specs: Sequence[Spec],
    config: Mapping[str, Any],
    curve: Path,
    run: RunDir,
    stages: Mapping[str, Mapping[str, Any]],
) -> Report:
    """Complete the model's card, and write report/: tables as csv, summary.json and the page index.html.

    config is the run's as run.json holds it, with the backbones that specs name; curve is the table of the curve, which
    is shown and kept beside where one was measured; stages is what run.json holds of the stages before this one.
    """
    examples, head, export, evaluation = results.examples, results.head, results.export, results.evaluation
    measured = read_measured(examples, export, evaluation, run)
    card = write_card(results, measured, specs, config, run)
    name, labels = config["name"], examples.labels
    confusion, predictions, reliability = measured.confusion, measured.predictions, measured.reliability
    classes = score_classes(confusion, labels)
    history = read_csv(head.history(run))
    trainings = {"": history}
    if isinstance(head, TunedHead):
        trainings = {" of the head alone": read_csv(run.history), " while fine-tuning": history}
    health = collect_health(examples, results.validation, results.audit, run)
    mistakes = sorted(
        (row for row in predictions if row["label"] != row["actual"]), key=lambda row: -float(row["probability"])
    )
    picked = np.random.default_rng(config["seed"]).permutation(len(predictions))
    gallery = [predictions[row] for row in picked[:GALLERY_IMAGES]]
    shown = mistakes[:MISTAKES_SHOWN]
    places = read_csv(run.audit / MAP)
    nearest = group_nearest(read_csv(run.audit / NEAREST), {row["path"] for row in shown})
    pictures = collect_pictures(
        [row["path"] for row in [*gallery, *shown]] + sorted(health.image_keys()),
        [
            *(row["nearest_path"] for rows in nearest.values() for row in rows),
            *(row["path"] for row in [*mistakes, *places]),
            *(predictions[row]["path"] for row in picked),
        ],
        run.examples,
        examples.shards,
    )
    summary = {
        "name": name,
        "metrics": evaluation.metrics,
        "verdict": evaluation.verdict,
        "blessed": evaluation.blessed,
        "reasons": evaluation.reasons,
        "macro": {
            score: float(np.mean([getattr(row, score) for row in classes if row.support]))
            for score in ("precision", "recall", "f1")
        },
        "most_confused": most_confused(confusion, labels),
        "examples": {key: value for key, value in asdict(examples).items() if key not in ("work", "labels")},
        "backbone": {
            "name": results.bottlenecks.backbone_name,
            "id": results.bottlenecks.backbone_id,
            "dim": results.bottlenecks.dim,
        },
        "best_epoch": head.best_epoch,
        **reliability.summary(),
    }
    leaks = describe_leaks(measured)
    curve_rows = read_csv(curve) if curve.exists() else []
    points = summarise_curve(curve_rows, config["data"]["source"])
    page = load_template("report.html.j2").render(
        summary=summary,
        verdict=weigh_accuracy(predictions, export, run),
        stages=stages,
        classes=classes,
        slices=measured.sources,
        measured=measured,
        gallery=gallery,
        mistakes=shown,
        mistakes_count=len(mistakes),
        ranks=list_ranks,
        nearest=nearest,
        pictures=pictures,
        page_data=gather_page_data(predictions, confusion, labels),
        health=health,
        card_sections=describe_card(card),
        curves=[
            embed_figure(plot_history(rows, key, title))
            for title, rows in trainings.items()
            for key in ("loss", "accuracy")
        ],
        notes=[*(head.warnings if isinstance(head, TunedHead) else []), *evaluation.warnings, *leaks],
        confusion=embed_figure(plot_confusion(confusion, labels), "confusion"),
        data_map=embed_figure(plot_map(places, {row["path"] for row in mistakes}), "map"),
        places_count=len(places),
        config=yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True),
        versions=list_versions(),
        data_hash=card["model_parameters"]["data"]["images_csv_sha256"],
        export=export.version,
        reliability=reliability,
        reliability_plots=[embed_figure(plot_coverage(reliability)), embed_figure(plot_calibration(reliability.bins))],
        points=[(point.published, *format_point(point)) for point in points],
        curve_plot=embed_figure(plot_curve(points)) if points else "",
        plotly=load_plotly(),
    )
    with replacing_folder(run.report) as folder:
        write_csv(
            folder / "confusion.csv",
            ["actual", *labels],
            ([text, *row] for text, row in zip(labels, confusion.tolist(), strict=True)),
        )
        write_csv(
            folder / "classes.csv",
            ClassRow._fields,
            ([row.label, *(f"{v:.6f}" for v in row[1:4]), row.support] for row in classes),
        )
        write_csv(folder / "mistakes.csv", list(predictions[0]), (list(row.values()) for row in mistakes))
        write_csv(folder / "history.csv", list(history[0]), (list(row.values()) for row in history))
        if curve_rows:
            write_csv(folder / curve.name, list(curve_rows[0]), (list(row.values()) for row in curve_rows))
        write_json(folder / "summary.json", summary)
        (folder / "index.html").write_text(page, encoding="utf-8", errors="backslashreplace")
    return Report(
        Work(len(predictions), computed=len(predictions)),
        f"{run.report.name}/index.html",
        f"{run.exports.name}/{export.version}/{MODEL_CARD}",
        leaks,
    )


def weigh_accuracy(predictions: Sequence[Row], export: Export, run: RunDir) -> Verdict:
    """Return the 95 % interval of the accuracy, and what the last blessed model of the run directory reached."""
    hits = sum(row["label"] == row["actual"] for row in predictions)
    former = find_last_blessed(run.exports, export.folder(run))
    accuracy = None
    if former:
        accuracy = json.loads((former / BLESSED).read_text(encoding="utf-8"))["metrics"]["accuracy"]
    return Verdict(*confidence_interval(hits, len(predictions)), former.name if former else "", accuracy)


def group_nearest(rows: Sequence[Row], paths: set[str]) -> dict[str, list[Row]]:
    """Return the rows of nearest.csv of each of some test images."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if row["path"] in paths:
            groups.setdefault(row["path"], []).append(row)
    return groups


def list_ranks(row: Row) -> list[tuple[str, str]]:
    """Return names and probabilities of the classes of a row of predictions.csv, from the second on."""
    return [(row[key], row[key.replace("label", "probability")]) for key in row if key.startswith("label_")]


def gather_page_data(predictions: Sequence[Row], confusion: np.ndarray, labels: Sequence[str]) -> dict[str, Any]:
    """Return what the page's script needs to list the images behind a number, MOST_IN_PAGE of them at most."""
    index = {label: number for number, label in enumerate(labels)}
    listed = [predictions[row] for row in choose_listed(predictions, MOST_IN_PAGE)]
    return {
        "labels": list(labels),
        "confusion": confusion.tolist(),
        "similar": order_by_confusion(confusion),
        "paths": [row["path"] for row in listed],
        "actual": [index[row["actual"]] for row in listed],
        "predicted": [index[row["label"]] for row in listed],
        "probability": [round(float(row["probability"]), 4) for row in listed],
    }


def choose_listed(predictions: Sequence[Row], most: int) -> list[int]:
    """Return which rows to list, in order: of each cell of the confusion matrix the most probable, as many of each.

    So all mistakes are there where few images are of their kind, and what is left out are images recognised as others.
    """
    cells: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    for row in sorted(range(len(predictions)), key=lambda row: -float(predictions[row]["probability"])):
        cells[predictions[row]["actual"], predictions[row]["label"]].append(row)
    ranked = sorted((rank, row) for rows in cells.values() for rank, row in enumerate(rows))
    return sorted(row for _, row in ranked[:most])
