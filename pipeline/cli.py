"""The command line: topgraft run, curve, predict, classify, export, serve, backbones."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Any, Optional

from components.errors import DamagedShard, UserError
from components.features import STAGES, TUNING_STAGES

DONE, USER_ERROR, NOT_BLESSED, INTERRUPTED = 0, 2, 3, 130


def main(arguments: Optional[list[str]] = None) -> int:
    """Run one command; return 0 when done (and blessed), 2 for the user's mistake, 3 when done but not blessed."""
    options = parse_arguments(arguments)
    silence_libraries(options.verbose)
    try:
        status: int = options.command(options)
        return status
    except UserError as error:
        print(f"topgraft: {error}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print("topgraft: interrupted; the same command continues where it stopped.", file=sys.stderr)
        return INTERRUPTED


def parse_arguments(arguments: Optional[list[str]]) -> argparse.Namespace:
    """Parse the command line; argparse itself exits with status 2 for a wrong one."""
    parser = argparse.ArgumentParser(
        prog="topgraft", description="Folders of labelled images in, a validated, blessed, servable classifier out."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--verbose", action="store_true", help="show what TensorFlow and Beam have to say")

    run = commands.add_parser("run", parents=[shared], help="images to report; finished stages are not run again")
    run.add_argument("config", type=Path, help="a YAML file, such as configs/digits.yaml")
    run.add_argument(
        "overrides", nargs="*", metavar="key=value", help="keys of the config to set, such as train.epochs=20"
    )
    stage = run.add_mutually_exclusive_group()
    stage.add_argument("--from", dest="first", choices=STAGES, help="run again from this stage on")
    stage.add_argument("--only", choices=STAGES, help="run just this stage again")
    run.set_defaults(command=run_command)

    curve = commands.add_parser(
        "curve", parents=[shared], help="accuracy by training images a class, over random draws"
    )
    curve.add_argument("config", type=Path, help="a YAML file, such as configs/caltech101.yaml")
    curve.add_argument("overrides", nargs="*", metavar="key=value", help="keys of the config to set")
    curve.add_argument("--shots", help="images a class, or shares of it, such as 15,30 or 60%%")
    curve.add_argument("--draws", type=positive, help="random draws of each (default 5)")
    curve.set_defaults(command=curve_command)

    predict = commands.add_parser("predict", parents=[shared], help="classify images with an exported model")
    predict.add_argument("export_dir", type=Path, help="a version folder, such as runs/digits/export/<version>")
    add_image_arguments(predict)
    predict.set_defaults(command=predict_command)

    classify = commands.add_parser("classify", parents=[shared], help="classify images with a backbone's own classes")
    add_image_arguments(classify)
    classify.add_argument("--backbone", default="efficientnet_lite0", help="a name (default efficientnet_lite0)")
    classify.set_defaults(command=classify_command)

    export = commands.add_parser(
        "export", parents=[shared], help="write the model of a finished run in another format, beside its SavedModel"
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
    actions.add_parser("list", parents=[shared], help="names, sizes, widths, licences, and which are here")
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


def run_command(options: argparse.Namespace) -> int:
    """topgraft run."""
    from rich.console import Console

    from components.features import RunDir
    from components.progress import Progress
    from pipeline.config import load_config
    from pipeline.pipeline import run_stages
    from pipeline.record import write_record
    from pipeline.stages import Stages, StopAfterStage

    config = load_config(options.config, options.overrides)
    asked = options.first or options.only
    if asked in TUNING_STAGES and not config.train.finetune:
        raise UserError(f"Stage '{asked}' is part of fine-tuning only: set train.finetune or name another stage.")
    run = RunDir(config.run_folder)
    progress = Progress(Console(stderr=True))
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
            print(f"topgraft: '{error.path}' was damaged and is computed again.", file=sys.stderr)
        finally:
            if stages.summary:
                record = write_record(config, run, stages)
    print_summary(
        record, run, [text for outcome in stages.outcomes.values() for text in getattr(outcome, "warnings", [])]
    )
    return DONE if record["blessed"] or options.only not in (None, "evaluate", "report") else NOT_BLESSED


def curve_command(options: argparse.Namespace) -> int:
    """topgraft curve."""
    from rich.console import Console
    from rich.table import Column, Table

    from components.features import RunDir
    from components.progress import Progress
    from pipeline.config import load_config
    from pipeline.pipeline import run_curve
    from pipeline.stages import Stages

    given = {"shots": options.shots, "draws": options.draws}
    overrides = [f"curve.{key}={value}" for key, value in given.items() if value is not None]
    config = load_config(options.config, [*options.overrides, *overrides])
    run = RunDir(config.run_folder)
    stages = Stages(run, Progress(Console(stderr=True)))
    run_curve(config, run, stages, stages.progress)

    from components.curve_report import format_point, summarise_curve
    from components.data_health import read_table
    from components.report import write_curve_page

    console, table = Console(), Table(Column("backbone", overflow="fold"), box=None, pad_edge=False)
    for column in ("images a class", "accuracy %", "mean class accuracy %"):
        table.add_column(column, justify="right")
    for point in summarise_curve(read_table(run.curve_rows), config.data.source):
        table.add_row(*format_point(point))
    console.print(table)
    ignored = ["The curve is of heads alone, train.finetune plays no part in it."] if config.train.finetune else []
    for text in [*ignored, *getattr(stages.outcomes["curve"], "warnings", [])]:
        console.print(f"\nnote: {text}", highlight=False, markup=False, soft_wrap=True)
    page = write_curve_page(config.name, config.data.source, run)
    console.print(f"curve: {page}", highlight=False, soft_wrap=True, markup=False)
    return DONE


def print_summary(record: dict[str, Any], run: Any, findings: list[str]) -> None:
    """Print a line a stage, what was found in the data, then the verdict."""
    from rich.console import Console
    from rich.table import Table

    table = Table("stage", box=None, pad_edge=False)
    for column in ("items", "reused", "computed", "seconds"):
        table.add_column(column, justify="right")
    table.add_column("")
    for name, stage in record["stages"].items():
        numbers = [f"{stage[column]:,}" for column in ("items", "reused", "computed")]
        table.add_row(name, *numbers, f"{stage['seconds']:.1f}", "as before" if stage["skipped"] else "")
    console = Console()
    console.print(table)
    for text in findings:
        console.print(f"\nnote: {text}", highlight=False, markup=False, soft_wrap=True)
    if record["metrics"]:
        metrics = "  ".join(f"{name} {value:.4f}" for name, value in record["metrics"].items())
        console.print(f"\n{metrics}", highlight=False)
        console.print(
            "BLESSED" if record["blessed"] else f"NOT BLESSED: {'; '.join(record['reasons'])}",
            highlight=False,
            markup=False,
        )
    if "report" in record["stages"]:
        console.print(f"report: {run.report / 'index.html'}", highlight=False, soft_wrap=True, markup=False)


def predict_command(options: argparse.Namespace) -> int:
    """topgraft predict."""
    from components.input_files import find_files
    from components.predict import load_export
    from components.prediction_files import check_output, write_predictions

    check_output(options.output)
    files = find_files(options.paths, options.output)
    write_predictions(load_export(options.export_dir), files, options.output, options.top_k)
    return DONE


def classify_command(options: argparse.Namespace) -> int:
    """topgraft classify."""
    from rich.console import Console

    from components.catalog import parse_backbone
    from components.classify import load_backbone_classifier
    from components.input_files import find_files
    from components.prediction_files import check_output, write_predictions
    from components.progress import Progress

    check_output(options.output)
    files = find_files(options.paths, options.output)
    progress = Progress(Console(stderr=True))
    with progress.stage("backbone"):
        classifier = load_backbone_classifier(parse_backbone(options.backbone), progress)
    write_predictions(classifier, files, options.output, options.top_k)
    return DONE


def export_command(options: argparse.Namespace) -> int:
    """topgraft export: not the stage of that name, which has written the SavedModel that is converted here."""
    from rich.console import Console

    from components.features import RunDir
    from components.progress import Progress
    from components.tflite import convert_export

    progress = Progress(Console(stderr=True))
    with progress.stage("tflite"):
        folder, comparison = convert_export(RunDir(options.run_dir), progress)
    print(f"SavedModel  accuracy {comparison.accuracy:.4f} on {comparison.images:,} test images")
    for name, model in comparison.models.items():
        size = f"{model.bytes / 2**20:.1f} MiB"
        print(f"{name:10}  accuracy {model.accuracy:.4f}  agreement {model.agreement:.4f}  {size}")
    print(f"models: {folder}")
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
    from components.progress import Progress

    console, progress = Console(), Progress(Console(stderr=True))
    if options.action == "list":
        backbone_catalog.print_list(console)
    else:
        backbone_catalog.print_backbone(options.name, console, progress, options.pbtxt, options.tensorboard)
    return DONE


def run_and_exit() -> None:
    """Run one command and end the process with its status."""
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: while the interpreter takes its modules down, TensorFlow's functions print errors about it.
    os._exit(status)


if __name__ == "__main__":
    run_and_exit()
