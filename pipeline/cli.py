"""The command line: topgraft run, curve, predict, classify, export, serve, backbones."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Optional

from components.errors import DamagedShard, UserError
from components.features import STAGES, TUNING_STAGES
from components.printable import printable
from pipeline.terminal import answering_in_json, print_comparison, print_curve, print_summary

if TYPE_CHECKING:
    from components.predict import Classifier
    from components.progress import Progress

DONE, USER_ERROR, NOT_BLESSED, INTERRUPTED, BROKEN_PIPE = 0, 2, 3, 130, 141


def main(arguments: Optional[list[str]] = None) -> int:
    """Run one command; return 0 when done (and blessed), 2 for the user's mistake, 3 when done but not blessed."""
    words = sys.argv[1:] if arguments is None else arguments
    with answering_in_json("--json" in words) as answer:
        try:
            options = parse_arguments(words)
            options.answer = answer
            silence_libraries(options.verbose)
            status: int = options.command(options)
            return status
        except WrongUsage as error:
            message, usage = error.args
            print(f"{usage}topgraft: error: {message}", file=sys.stderr)
            answer({"error": message})
            raise SystemExit(USER_ERROR) from error
        except UserError as error:
            print(f"topgraft: {printable(str(error))}", file=sys.stderr)
            answer({"error": str(error)})
            return USER_ERROR
        except KeyboardInterrupt:
            message = "interrupted; the same command continues where it stopped."
            print(f"topgraft: {message}", file=sys.stderr)
            answer({"error": message})
            return INTERRUPTED


class WrongUsage(Exception):
    """A command line that is none: args are what is wrong with it and how it is to be."""


class Parser(argparse.ArgumentParser):
    """Raises WrongUsage instead of leaving; options have to be written out."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise WrongUsage(printable(message), self.format_usage())


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """Parse the command line; raises WrongUsage."""
    parser = Parser(
        prog="topgraft", description="Folders of labelled images in, a validated, blessed, servable classifier out."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    shared = Parser(add_help=False)
    shared.add_argument("--verbose", action="store_true", help="show what TensorFlow and Beam have to say")
    shared.add_argument("--quiet", action="store_true", help="show errors and the last line, the verdict, only")
    answering = Parser(add_help=False, parents=[shared])
    answering.add_argument("--json", action="store_true", help="print the result as JSON, all else on stderr")

    run = commands.add_parser("run", parents=[answering], help="images to report; finished stages are not run again")
    run.add_argument("config", type=Path, help="a YAML file, such as configs/digits.yaml")
    run.add_argument(
        "overrides", nargs="*", metavar="key=value", help="keys of the config to set, such as train.epochs=20"
    )
    stage = run.add_mutually_exclusive_group()
    stage.add_argument("--from", dest="first", choices=STAGES, help="run again from this stage on")
    stage.add_argument("--only", choices=STAGES, help="run just this stage again")
    run.set_defaults(command=run_command)

    curve = commands.add_parser(
        "curve", parents=[answering], help="accuracy by training images a class, over random draws"
    )
    curve.add_argument("config", type=Path, help="a YAML file, such as configs/caltech101.yaml")
    curve.add_argument("overrides", nargs="*", metavar="key=value", help="keys of the config to set")
    curve.add_argument("--shots", help="images a class, or shares of it, such as 15,30 or 60%%")
    curve.add_argument("--draws", type=positive, help="random draws of each (default 5)")
    curve.set_defaults(command=curve_command)

    predict = commands.add_parser("predict", parents=[answering], help="classify images with an exported model")
    predict.add_argument("export_dir", type=Path, help="a version folder, such as runs/digits/export/<version>")
    add_image_arguments(predict)
    predict.add_argument(
        "--beam", action="append", metavar="KEY=VALUE", help="run as a Beam job: runner=..., shards=..."
    )
    predict.set_defaults(command=predict_command, name="predict")

    classify = commands.add_parser(
        "classify", parents=[answering], help="classify images with a backbone's own classes"
    )
    add_image_arguments(classify)
    classify.add_argument("--backbone", default="efficientnet_lite0", help="a name (default efficientnet_lite0)")
    classify.set_defaults(command=classify_command, name="classify")

    export = commands.add_parser(
        "export", parents=[answering], help="write the model of a finished run in another format, beside its SavedModel"
    )
    export.add_argument("run_dir", type=Path, help="the output_dir of a finished run, such as runs/digits")
    export.add_argument("--to", choices=["tflite"], required=True, help="tflite: float32 and int8 models for devices")
    export.set_defaults(command=export_command)

    serve = commands.add_parser("serve", parents=[shared], help="answer over HTTP with an exported model, and a page")
    serve.add_argument("export_dir", type=Path, help="runs/digits/export (its newest version), or a version folder")
    serve.add_argument("--port", type=int, default=8501, help="default 8501; 0 takes a free one")
    serve.add_argument("--host", default="127.0.0.1", help="default 127.0.0.1, this machine alone; 0.0.0.0 for all")
    serve.add_argument("--name", help="of the model in its addresses (default the run's)")
    serve.set_defaults(command=serve_command)

    backbones = commands.add_parser("backbones", help="list, look at or fetch backbones")
    actions = backbones.add_subparsers(required=True, metavar="ACTION", dest="action")
    actions.add_parser("list", parents=[answering], help="names, sizes, widths, licences, and which are here")
    show = actions.add_parser("show", parents=[shared], help="input, layers with shapes, operations by kind")
    fetch = actions.add_parser("fetch", parents=[shared], help="download a backbone into the cache")
    for action in (show, fetch):
        action.add_argument("name", help="a name, a Keras application, a TF-Hub URL or a folder")
    show.add_argument("--pbtxt", type=Path, metavar="FILE", help="write the graph as text")
    show.add_argument("--tensorboard", type=Path, metavar="DIR", help="write the graph as TensorBoard events")
    fetch.set_defaults(pbtxt=None, tensorboard=None)
    backbones.set_defaults(command=backbones_command)
    options, rest = parser.parse_known_args(arguments)
    if rest and options.command in (run_command, curve_command) and not any(word.startswith("-") for word in rest):
        options.overrides += rest  # overrides that stand behind an option
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return options


def add_image_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what every command over images takes."""
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="image files, folders of them, or globs")
    parser.add_argument("--output", type=Path, help="write to this .csv, .jsonl or .html file instead of the terminal")
    parser.add_argument(
        *("--top", "--top-k"), dest="top_k", metavar="K", type=positive, default=5, help="classes to name (default 5)"
    )


def positive(text: str) -> int:
    """Parse a number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of 1 or more")
    return int(text)


def silence_libraries(verbose: bool) -> None:
    """Keep the libraries' own messages off the terminal unless they are asked for; call before they are imported."""
    if verbose:
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    warnings.filterwarnings("ignore")
    logging.getLogger().setLevel(logging.ERROR)
    for name in ("apache_beam", "tensorflow", "absl", "root"):
        logging.getLogger(name).setLevel(logging.ERROR)


def show_progress(options: argparse.Namespace) -> Progress:
    """Return the bars of a command, which a terminal alone shows."""
    from rich.console import Console

    from components.progress import Progress

    return Progress(Console(stderr=True, quiet=options.quiet))


def run_command(options: argparse.Namespace) -> int:
    """topgraft run."""
    from components.features import RunDir
    from pipeline.config import load_config
    from pipeline.pipeline import run_stages
    from pipeline.record import write_record
    from pipeline.stages import Stages, StopAfterStage

    config = load_config(options.config, options.overrides)
    asked = options.first or options.only
    if asked in TUNING_STAGES and not config.train.finetune:
        raise UserError(f"Stage '{asked}' is part of fine-tuning only: set train.finetune or name another stage.")
    run = RunDir(config.run_folder)
    progress = show_progress(options)
    damaged: set[str] = set()
    while True:
        stages = Stages(run, progress, options.first, options.only)
        try:
            run_stages(config, run, stages, progress)
            break
        except StopAfterStage:
            break
        except DamagedShard as error:
            if error.path in damaged or not Path(error.path).is_relative_to(run.root):
                raise
            damaged.add(error.path)
            Path(error.path).unlink(missing_ok=True)
            print(f"topgraft: '{printable(error.path)}' was damaged and is computed again.", file=sys.stderr)
        finally:
            if stages.summary:
                record = write_record(config, run, stages)
    findings = [text for outcome in stages.outcomes.values() for text in getattr(outcome, "warnings", [])]
    report = run.report / "index.html" if "report" in record["stages"] else None
    print_summary(record, findings, report, options.quiet)
    options.answer({**record, "report": report and str(report)})
    return DONE if record["blessed"] or options.only not in (None, "evaluate", "report") else NOT_BLESSED


def curve_command(options: argparse.Namespace) -> int:
    """topgraft curve."""
    from components.features import RunDir
    from pipeline.config import load_config
    from pipeline.pipeline import run_curve
    from pipeline.stages import Stages

    given = {"shots": options.shots, "draws": options.draws}
    overrides = [f"curve.{key}={value}" for key, value in given.items() if value is not None]
    config = load_config(options.config, [*options.overrides, *overrides])
    run = RunDir(config.run_folder)
    stages = Stages(run, show_progress(options))
    run_curve(config, run, stages, stages.progress)

    from components.curve_report import summarise_curve
    from components.data_health import read_table
    from components.report import write_curve_page

    points = summarise_curve(read_table(run.curve_rows), config.data.source)
    ignored = ["The curve is of heads alone, train.finetune plays no part in it."] if config.train.finetune else []
    findings = [*ignored, *getattr(stages.outcomes["curve"], "warnings", [])]
    page = write_curve_page(config.name, config.data.source, run)
    print_curve(points, findings, page, options.quiet)
    options.answer({"points": [point._asdict() for point in points], "notes": findings, "page": str(page)})
    return DONE


def predict_command(options: argparse.Namespace) -> int:
    """topgraft predict."""
    from components.predict import load_export

    if options.beam:
        return predict_on_beam(options)
    return write_answers(options, lambda progress: load_export(options.export_dir))


def predict_on_beam(options: argparse.Namespace) -> int:
    """topgraft predict --beam."""
    from components.input_files import find_files
    from components.predict_job import predict_by_beam
    from pipeline.config import load_beam
    from pipeline.settings import make_options

    settings, progress = load_beam(options.beam), show_progress(options)
    files = progress.count(find_files(options.paths, options.output), "images")
    with progress.stage("predict"):
        counts = predict_by_beam(
            options.export_dir, files, options.output, options.top_k, settings.shards, make_options(settings.runner)
        )
    options.answer({**counts, "output": str(options.output)})
    return DONE


def classify_command(options: argparse.Namespace) -> int:
    """topgraft classify."""
    from components.catalog import parse_backbone
    from components.classify import load_backbone_classifier

    specs = parse_backbone(options.backbone)
    return write_answers(options, lambda progress: load_backbone_classifier(specs, progress))


def write_answers(options: argparse.Namespace, load: Callable[[Progress], Classifier]) -> int:
    """Classify the images of predict or classify with what load returns."""
    from components.input_files import find_files
    from components.prediction_files import check_output, write_json_lines, write_predictions

    check_output(options.output)
    files = find_files(options.paths, options.output)
    progress = show_progress(options)
    with progress.stage("model"):
        classifier = load(progress)
    if options.output:
        with progress.stage(options.name):
            counts = write_predictions(classifier, progress.count(files, "images"), options.output, options.top_k)
        options.answer({**counts, "output": str(options.output)})
    elif options.json:
        write_json_lines(classifier, files, options.answer, options.top_k)
    else:
        write_predictions(classifier, files, None, options.top_k)
    return DONE


def export_command(options: argparse.Namespace) -> int:
    """topgraft export: not the stage of that name, which has written the SavedModel that is converted here."""
    from dataclasses import asdict

    from components.features import RunDir
    from components.tflite import convert_export

    progress = show_progress(options)
    with progress.stage("tflite"):
        folder, comparison = convert_export(RunDir(options.run_dir), progress)
    print_comparison(comparison, folder, options.quiet)
    options.answer({**asdict(comparison), "folder": str(folder)})
    return DONE


def serve_command(options: argparse.Namespace) -> int:
    """topgraft serve."""
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ModuleNotFoundError as error:
        raise UserError(
            f"'{error.name}' is not installed, which serving needs: pip install 'topgraft[serve]'."
        ) from error

    from components.neighbours import load_training_images
    from components.serve import serve
    from components.served_export import load_served

    served = load_served(options.export_dir, options.name)
    serve(served, load_training_images(served.folder), options.host, options.port)
    return DONE


def backbones_command(options: argparse.Namespace) -> int:
    """topgraft backbones list, show and fetch."""
    from rich.console import Console

    from components import backbone_catalog

    if options.action == "list":
        backbones = backbone_catalog.list_backbones()
        if not options.json:
            backbone_catalog.print_list(backbones, Console())
        options.answer([backbone._asdict() for backbone in backbones])
    else:
        progress = show_progress(options)
        backbone_catalog.print_backbone(options.name, Console(), progress, options.pbtxt, options.tensorboard)
    return DONE


def run_and_exit() -> None:
    """Run one command and end the process with its status."""
    try:
        status = main()
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads, such as head, has enough
        status = BROKEN_PIPE
    sys.stderr.flush()
    # Not sys.exit: while the interpreter takes its modules down, TensorFlow's functions print errors about it.
    os._exit(status)


if __name__ == "__main__":
    run_and_exit()
