"""The commands of topgraft: each takes parsed options; run returns an exit status."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from importlib import import_module
from typing import TYPE_CHECKING, Any

from components.errors import DamagedFile, UserError
from components.run_dir import TUNING_STAGES, RunDir
from components.storage.places import as_path
from components.terminal.text import print_line, printable
from pipeline.terminal import print_comparison, print_curve, print_difference, print_plan, print_summary

if TYPE_CHECKING:
    from pathlib import Path

    from apache_beam.options.pipeline_options import PipelineOptions

    from components.predict.predict import Classifier
    from components.terminal.progress import Progress
    from pipeline.config import Config

EXIT_NOT_BLESSED = 3
# Worker processes that may die in one run before it stops.
MAX_LOST_WORKERS = 3


def show_progress(quiet: bool) -> Progress:
    """Return the progress bars of a command, which appear only in a terminal."""
    from rich.console import Console

    from components.terminal.progress import Progress

    return Progress(Console(stderr=True, quiet=quiet))


def run_command(options: argparse.Namespace) -> int:
    """topgraft run."""
    run, record = run_place(options.place, options.overrides, options.flags, options.quiet, options.first, options.only)
    report = run.report / "index.html" if "report" in record["stages"] else None
    options.print_json({**record, "report": report and str(report)})
    passed = record["blessed"] or not record["gated"]
    return 0 if passed or options.only not in (None, "evaluate", "report") else EXIT_NOT_BLESSED


def run_place(
    place: Path,
    overrides: list[str],
    flags: Sequence[str],
    quiet: bool,
    first: str | None = None,
    only: str | None = None,
) -> tuple[RunDir, dict[str, Any]]:
    """Run a config, or the one that data stand for, and print the summary; return run directory and run.json."""
    from pipeline.clusters.connect import connect_run
    from pipeline.data_place import is_config
    from pipeline.load_config import load_config
    from pipeline.run_lock import hold_run_dir
    from pipeline.written_config import keep_config

    config = load_config(place, overrides, flags)
    asked = first or only
    if asked in TUNING_STAGES and not config.train.finetune:
        raise UserError(f"Stage '{asked}' is part of fine-tuning only: set train.finetune or name another stage.")
    run = RunDir(config.run_folder)
    with hold_run_dir(run), keep_config(run, place, overrides, flags), connect_run(config, run) as make_job:
        record = run_whole(config, run, show_progress(quiet), make_job, first, only)
    print_summary(record, run.report / "index.html" if "report" in record["stages"] else None, quiet)
    if not quiet and not is_config(place):
        print_line(f"config: {run.config}")
    return run, record


def run_whole(
    config: Config,
    run: RunDir,
    progress: Progress,
    make_job: Callable[[str, int], PipelineOptions],
    first: str | None = None,
    only: str | None = None,
) -> dict[str, Any]:
    """Run the stages, again after a damaged file or a lost worker; return the content of run.json."""
    from pipeline.lost_workers import LostWorker, detect_lost_workers
    from pipeline.pipeline import run_stages
    from pipeline.record import write_record
    from pipeline.stages import Stages, StopAfterStage

    damaged: set[str] = set()
    lost = 0
    while True:
        stages = Stages(run, progress, make_job, first, only)
        try:
            with detect_lost_workers():
                run_stages(config, run, stages)
            break
        except StopAfterStage:
            break
        except LostWorker as error:
            lost += 1
            if lost > MAX_LOST_WORKERS:
                raise UserError(
                    f"Worker processes died {lost} times, the last with status {error}: give them more memory, or "
                    f"lower beam.direct_num_workers, then the same command continues where it stopped."
                ) from error
            print(f"topgraft: a worker process died with status {error}: its work is done again.", file=sys.stderr)
        except DamagedFile as error:
            if error.path in damaged or not as_path(error.path).is_relative_to(run.root):
                raise
            damaged.add(error.path)
            as_path(error.path).unlink(missing_ok=True)
            print(f"topgraft: '{printable(error.path)}' was damaged and is computed again.", file=sys.stderr)
        finally:
            if stages.summary:
                record = write_record(config, run, stages)
    return record


def plan_command(options: argparse.Namespace) -> None:
    """topgraft plan."""
    from pipeline.load_config import load_config
    from pipeline.plan import plan_run

    config, words = load_config(options.place, options.overrides), [str(options.place), *options.overrides]
    worker_cores = (options.workers or 0) * options.vcpus
    progress = show_progress(options.quiet)
    plan = plan_run(config, words, options.images, worker_cores, options.price, options.measure, progress)
    print_plan(plan, options.quiet)
    options.print_json({**plan._asdict(), "stages": {stage: cost._asdict() for stage, cost in plan.stages.items()}})


def curve_command(options: argparse.Namespace) -> None:
    """topgraft curve."""
    from pipeline.clusters.connect import connect_run
    from pipeline.load_config import load_config
    from pipeline.pipeline import run_curve
    from pipeline.run_lock import hold_run_dir
    from pipeline.stages import Stages
    from pipeline.written_config import keep_config

    given = {"shots": options.shots, "draws": options.draws}
    added = [f"curve.{key}={value}" for key, value in given.items() if value is not None]
    overrides = [*options.overrides, *added]
    config = load_config(options.place, overrides, options.flags)
    run = RunDir(config.run_folder)
    kept = keep_config(run, options.place, overrides, options.flags)
    with hold_run_dir(run), kept, connect_run(config, run) as make_job:
        outcome = run_curve(config, Stages(run, show_progress(options.quiet), make_job))

        from components.curve.page import summarize_curve, write_curve_page
        from components.storage.tables import read_csv

        points = summarize_curve(read_csv(run.curve_rows), config.data.source)
        page = write_curve_page(config.name, config.data.source, run)
    ignored = ["The curve measures heads alone and ignores train.finetune."] if config.train.finetune else []
    findings = [*ignored, *outcome.warnings]
    print_curve(points, findings, page, options.quiet)
    options.print_json({"points": [point._asdict() for point in points], "notes": findings, "page": str(page)})


def init_command(options: argparse.Namespace) -> None:
    """topgraft init."""
    from pipeline.data_place import is_config
    from pipeline.load_config import load_config, read_values
    from pipeline.written_config import write_new_config

    if is_config(options.place):
        raise UserError(f"'{options.place}' is a config already: give images, such as topgraft init photos/.")
    config = load_config(options.place, options.overrides)
    written = write_new_config(config.name, read_values(options.place, options.overrides, ()))
    print_line(f"{written} is written: change what you like, then go on with: topgraft run {shlex.quote(str(written))}")
    options.print_json({"config": str(written)})


def predict_command(options: argparse.Namespace) -> None:
    """topgraft predict."""
    from components.export.versions import find_export
    from components.predict.predict import load_export

    if options.beam or options.flags:
        predict_on_beam(options)
    else:
        classify_images(options, lambda progress: load_export(find_export(options.model)))


def predict_on_beam(options: argparse.Namespace) -> None:
    """topgraft predict as a Beam job."""
    from components.export.versions import find_export
    from components.predict.beam_job import predict_by_beam
    from components.predict.inputs import find_inputs
    from pipeline.clusters.connect import connect_runner
    from pipeline.load_config import load_beam
    from pipeline.runners import check_places, make_options, place_path

    settings, progress = load_beam(options.beam or (), options.flags), show_progress(options.quiet)
    make_options(settings, "predict")  # raises UserError
    places = [("MODEL", options.model), *(("PATH", path) for path in options.paths)]
    check_places(settings.runner, [*places, ("--output", options.output)])
    output, *paths = (place_path(settings, place) for place in (options.output or as_path("."), *options.paths))
    export = place_path(settings, find_export(options.model))
    files = progress.count(find_inputs(paths, options.output), "images")
    connect = connect_runner(settings, "", output.parent, [*map(str, (export, *paths))])
    with connect as make_job, progress.stage("predict"):
        job = make_job("predict")
        counts = predict_by_beam(export, files, options.output, options.top_k, settings.shards, job)
    options.print_json({**counts, "output": str(options.output)})


def classify_command(options: argparse.Namespace) -> None:
    """topgraft classify."""
    from components.backbones.spec import parse_backbone
    from components.predict.predict import load_backbone_classifier

    specs = parse_backbone(options.backbone)
    classify_images(options, lambda progress: load_backbone_classifier(specs, progress))


def classify_images(options: argparse.Namespace, load: Callable[[Progress], Classifier]) -> None:
    """Classify the images that options name with the classifier that load returns."""
    from components.predict.inputs import find_inputs
    from components.predict.outputs import check_output, write_predictions

    check_output(options.output)
    files = find_inputs(options.paths, options.output)
    progress = show_progress(options.quiet)
    with progress.stage("model"):
        classifier = load(progress)
    if not options.output:
        write_predictions(classifier, files, None, options.top_k, options.print_json if options.json else None)
        return
    with progress.stage(options.command_name):
        counts = write_predictions(classifier, progress.count(files, "images"), options.output, options.top_k)
    options.print_json({**counts, "output": str(options.output)})


def load_extra(package: str, extra: str) -> None:
    """Import a package of an extra; raises UserError without it."""
    try:
        import_module(package)
    except ModuleNotFoundError as error:
        raise UserError(
            f"This command needs '{error.name}', which is not installed: pip install 'topgraft[{extra}]'."
        ) from error


def export_command(options: argparse.Namespace) -> None:
    """topgraft export: convert the SavedModel that the stage export wrote."""
    from dataclasses import asdict

    from components.export.convert import convert_export
    from components.export.formats import FORMATS
    from components.export.versions import find_export
    from pipeline.output_dir import is_run_dir
    from pipeline.run_lock import hold_run_dir

    for package in FORMATS[options.to].packages:
        load_extra(package, options.to)
    export = find_export(options.model).resolve()
    progress, run = show_progress(options.quiet), RunDir(export.parent.parent)
    with hold_run_dir(run) if is_run_dir(run.root) else nullcontext(), progress.stage(options.to):
        folder, comparison = convert_export(export, run, options.to, progress)
    print_comparison(comparison, folder, options.quiet)
    options.print_json({**asdict(comparison), "folder": str(folder)})


def compare_command(options: argparse.Namespace) -> None:
    """topgraft compare."""
    from dataclasses import asdict

    from components.compare.compare import compare_exports
    from components.compare.page import write_difference_page
    from components.export.versions import find_export
    from components.predict.outputs import check_output

    page = options.output
    check_output(page, [".html"])
    difference = compare_exports(find_export(options.first), find_export(options.second))
    if page:
        write_difference_page(difference, page)
    print_difference(difference, page, options.quiet)
    options.print_json({**asdict(difference), "page": page and str(page)})


def serve_command(options: argparse.Namespace) -> None:
    """topgraft serve."""
    load_extra("starlette", "serve")
    load_extra("uvicorn", "serve")
    from components.serve.neighbours import load_training_images
    from components.serve.server import serve
    from components.serve.tf_serving import load_served

    served = load_served(options.model, options.name)
    serve(served, load_training_images(served.folder), options.host, options.port)


def worker_command(options: argparse.Namespace) -> None:
    """topgraft worker: until it is interrupted."""
    from pipeline.clusters.worker_pool import serve_pool

    serve_pool(options.port)


def backbones_command(options: argparse.Namespace) -> None:
    """topgraft backbones list, show and fetch."""
    from rich.console import Console

    from components.backbones import inspect as backbone_catalog

    if options.action == "list":
        backbones = backbone_catalog.list_backbones()
        if not options.json:
            backbone_catalog.print_list(backbones, Console())
        options.print_json([backbone._asdict() for backbone in backbones])
    else:
        progress = show_progress(options.quiet)
        backbone_catalog.print_backbone(options.name, Console(), progress, options.pbtxt, options.tensorboard)
