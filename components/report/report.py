"""Report: csv and json files, and one self-contained page that shows the model to a person."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from components.audit.audit import MAP, NEAREST
from components.backbones.spec import Spec
from components.compare.compare import Difference, compare_exports
from components.compare.page import list_shown, show_difference
from components.curve.page import describe_curve, summarize_curve
from components.errors import UserError
from components.evaluate.evaluate import find_last_blessed
from components.export.explain import EXPLAINED
from components.features import EVIDENCE
from components.metrics.confusion import ClassRow, most_confused
from components.outcomes import Export, Report, Results, TunedHead, Work
from components.pages.figures import plot_calibration, plot_confusion, plot_coverage, plot_history, plot_map
from components.pages.html import embed_figure, encode_evidence, load_plotly, load_template
from components.predict.predict import load_export
from components.report.card_text import describe_card
from components.report.content import Content, TableRow, describe_leaks, read_health, read_report_content
from components.report.model_card import build_card
from components.report.page_data import gather_page_data
from components.run_dir import BLESSED, MODEL_CARD, RunDir
from components.shards.pictures import collect_pictures, read_encoded
from components.storage.files import write_json
from components.storage.ownership import replacing_folder
from components.storage.tables import escape_name, read_csv, scan_csv, write_csv

GALLERY_IMAGES = 9
MISTAKES_SHOWN = 60
# Packages whose versions the results of a run depend on.
PACKAGES = (
    *("topgraft", "tensorflow", "tensorflow-hub", "apache-beam"),
    *("tensorflow-data-validation", "tensorflow-model-analysis", "numpy", "scikit-learn"),
)


def write_report(
    results: Results,
    specs: Sequence[Spec],
    config: Mapping[str, Any],
    curve: Path,
    run: RunDir,
    stages: Mapping[str, Mapping[str, Any]],
) -> Report:
    """Complete the model's card, and write report/: tables as csv, summary.json and the page index.html.

    config and stages are those of run.json, specs the backbones that config names; curve is the table of the curve,
    which is shown and copied where one was measured.
    """
    content = read_report_content(results, run)
    card = build_card(content, specs, config)
    write_json(results.export.folder(run) / MODEL_CARD, card)
    summary, leaks = summarise(content, config["name"]), describe_leaks(content)
    history = read_csv(results.head.history(run))
    difference, uncompared = compare_with_former(results.export, run)
    curve_rows = read_csv(curve) if curve.exists() else []
    page = load_template("report.html.j2").render(
        content=content,
        summary=summary,
        former=find_former(results.export, run),
        uncompared=uncompared,
        leaks=leaks,
        stages=stages,
        page_data=gather_page_data(content),
        card_sections=describe_card(card),
        config=yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True),
        versions=list_package_versions(),
        plotly=load_plotly(),
        **draw_figures(content, history, run),
        **(show_difference(difference) if difference else {}),
        **gather_images(content, config["seed"], run, list_shown(difference) if difference else ()),
        **describe_curve(summarize_curve(curve_rows, config["data"]["source"])),
    )
    with replacing_folder(run.report) as folder:
        write_tables(content, {"history.csv": history, curve.name: curve_rows}, folder)
        write_json(folder / "summary.json", summary)
        (folder / "index.html").write_text(page, encoding="utf-8", errors="backslashreplace")
    images = len(content.predictions)
    card_path = f"{run.exports.name}/{results.export.version}/{MODEL_CARD}"
    return Report(Work(images, computed=images), f"{run.report.name}/index.html", card_path, leaks)


def summarise(content: Content, name: str) -> dict[str, Any]:
    """Return the summary of a run of that name, as summary.json has it."""
    results = content.results
    examples, bottlenecks, evaluation = results.examples, results.bottlenecks, results.evaluation
    measured = [row for row in content.classes if row.support]
    return {
        "name": name,
        "metrics": evaluation.metrics,
        "verdict": evaluation.verdict,
        "blessed": evaluation.blessed,
        "reasons": evaluation.reasons,
        "macro": {
            score: float(np.mean([getattr(row, score) for row in measured])) for score in ("precision", "recall", "f1")
        },
        "most_confused": most_confused(content.confusion, examples.labels),
        "examples": {key: value for key, value in asdict(examples).items() if key not in ("work", "labels")},
        "backbone": {"name": bottlenecks.backbone_name, "id": bottlenecks.backbone_id, "dim": bottlenecks.dim},
        "best_epoch": results.head.best_epoch,
        **content.reliability.summary(),
    }


def find_former(export: Export, run: RunDir) -> tuple[str, float] | None:
    """Return version and accuracy of the last blessed model before an export, None without any."""
    former = find_last_blessed(run.exports, export.folder(run))
    if former is None:
        return None
    return former.name, json.loads((former / BLESSED).read_text(encoding="utf-8"))["metrics"]["accuracy"]


def compare_with_former(export: Export, run: RunDir) -> tuple[Difference | None, str]:
    """Return the difference to the last blessed model before an export, or None and why there is none."""
    former = find_last_blessed(run.exports, export.folder(run))
    try:
        return (compare_exports(former, export.folder(run)) if former else None), ""
    except UserError as error:
        return None, str(error)


def draw_figures(content: Content, history: Sequence[TableRow], run: RunDir) -> dict[str, Any]:
    """Return the template's figures: learning curves, confusion matrix, coverage and calibration."""
    results, reliability = content.results, content.reliability
    plots = plot_coverage(reliability.curve, reliability.test), plot_calibration(reliability.bins)
    trainings = {"": history}
    if isinstance(results.head, TunedHead):
        trainings = {" of the head alone": read_csv(run.history), " while fine-tuning": history}
    return {
        "curves": [
            embed_figure(plot_history(rows, key, title))
            for title, rows in trainings.items()
            for key in ("loss", "accuracy")
        ],
        "confusion": embed_figure(plot_confusion(content.confusion, results.examples.labels), "confusion"),
        "reliability_plots": [embed_figure(plot) for plot in plots],
    }


def gather_images(content: Content, seed: int, run: RunDir, changed: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the template's variables that show images: gallery, mistakes, map, tables on the data, pictures."""
    shuffled = [content.predictions[row] for row in np.random.default_rng(seed).permutation(len(content.predictions))]
    gallery, shown = shuffled[:GALLERY_IMAGES], content.mistakes[:MISTAKES_SHOWN]
    wrong = {row["path"] for row in shown}
    nearest = [row for row in scan_csv(run.audit / NEAREST) if row["path"] in wrong]
    places, health = read_csv(run.audit / MAP), read_health(run)
    large = (
        [row["path"] for row in [*gallery, *shown]]
        + [image["second_path"] for image in changed]
        + sorted(health.image_keys())
    )
    evidence = explain_rows([*gallery, *shown], content, run)
    small = [row["nearest_path"] for row in nearest]
    small += [row["path"] for row in [*content.mistakes, *places, *shuffled]]
    return {
        "gallery": gallery,
        "mistakes": shown,
        "evidence": evidence,
        "nearest": nearest,
        "places_count": len(places),
        "data_map": embed_figure(plot_map(places, {row["path"] for row in content.mistakes}), "map"),
        "health": health,
        "pictures": collect_pictures(large, small, run.examples, content.results.examples.shards),
    }


def explain_rows(rows: Sequence[TableRow], content: Content, run: RunDir) -> dict[str, dict[str, Any]]:
    """Return encode_evidence for the predicted and the actual class of rows, by path; none if the export has none."""
    if content.facts[EVIDENCE] not in EXPLAINED:
        return {}
    classifier = load_export(content.results.export.folder(run))
    assert classifier.explain
    names = {escape_name(label): label for label in classifier.labels}
    wanted = {row["path"]: (names[row["label"]], names[row["actual"]]) for row in rows}
    images = dict(read_encoded({*wanted}, run.examples, content.results.examples.shards))
    answers = classifier.explain([*images.values()], [wanted[path] for path in images]) if images else []
    evidence = (answer.evidence for answer in answers)
    return {path: encode_evidence(part) for path, part in zip(images, evidence, strict=True) if part is not None}


def write_tables(content: Content, tables: Mapping[str, Sequence[TableRow]], folder: Path) -> None:
    """Write confusion.csv, classes.csv, mistakes.csv, and by their names those of further tables that have rows."""
    labels, mistakes = content.results.examples.labels, content.mistakes
    rows = ([label, *row] for label, row in zip(labels, content.confusion.tolist(), strict=True))
    write_csv(folder / "confusion.csv", ["actual", *labels], rows)
    scores = ([row.label, *(f"{v:.6f}" for v in row[1:4]), row.support] for row in content.classes)
    write_csv(folder / "classes.csv", ClassRow._fields, scores)
    write_csv(folder / "mistakes.csv", list(content.predictions[0]), (list(row.values()) for row in mistakes))
    for name, table in tables.items():
        if table:
            write_csv(folder / name, list(table[0]), (list(row.values()) for row in table))


def list_package_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages whose results a run depends on; '' for one not installed."""
    return {"python": platform.python_version(), **{name: _find_version(name) for name in PACKAGES}}


def _find_version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""
