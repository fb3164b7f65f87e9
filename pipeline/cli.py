"""The command line: parse its arguments, run one command, report errors."""

from __future__ import annotations

import argparse
import logging
import math
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from components.errors import UserError
from components.run_dir import STAGES
from components.storage.places import as_path, expand_home
from components.terminal.text import printable
from pipeline import commands
from pipeline.failures import describe_failure, describe_user_error, is_interrupt
from pipeline.terminal import json_output

BEAM_COMMANDS = ("run", "curve", "predict")
BEAM_FLAGS = "Flags of Apache Beam follow --, such as -- --runner=DataflowRunner --region=us-central1."
MODEL = "a run directory, such as runs/digits, or its folder export: the newest blessed version; or a version folder"
USER_ERROR, INTERRUPTED, BROKEN_PIPE = 2, 130, 141
INTERRUPTION = "interrupted; the same command continues where it stopped."


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return 0 when done, 2 for a user error, 3 for a model that is not blessed, 130 on interrupt."""
    words = sys.argv[1:] if arguments is None else arguments
    with json_output("--json" in words) as print_json:
        try:
            options = parse_arguments(words)
            options.print_json = print_json
            silence_libraries(options.verbose)
            return options.command(options) or 0
        except (Exception, KeyboardInterrupt) as error:
            message = describe_user_error(error)
            interrupted = message is None and (isinstance(error, KeyboardInterrupt) or is_interrupt(error))
            if message is None:
                message = INTERRUPTION if interrupted else describe_failure(error)
                if message is None or ("--verbose" in words and not interrupted):
                    raise
            prefix = f"{error.usage}topgraft: error:" if isinstance(error, InvalidArguments) else "topgraft:"
            print(f"{prefix} {printable(message)}", file=sys.stderr)
            print_json({"error": message})
            return INTERRUPTED if interrupted else USER_ERROR


class InvalidArguments(UserError):
    """An invalid command line, with the usage of its command."""

    def __init__(self, message: str, usage: str):
        super().__init__(message)
        self.usage = usage


class Parser(argparse.ArgumentParser):
    """A parser that raises InvalidArguments instead of exiting and accepts no abbreviated options."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise InvalidArguments(printable(message), self.format_usage())


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """Return the options of a command line; raises InvalidArguments."""
    words, flags = split_flags(arguments)
    parser = make_parser()
    options, rest = parser.parse_known_args(words)
    options.flags = flags
    place = getattr(options, "place", path("."))
    if place is None or ("=" in place.name and not place.exists()):
        raise UserError(
            f"Give images or a config first, such as topgraft {options.command_name} photos/, where photos/ has one "
            f"sub-folder of images per class."
        )
    if rest and hasattr(options, "overrides") and not any(word.startswith("-") for word in rest):
        options.overrides += rest  # overrides that follow an option
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return options


def make_parser() -> Parser:
    """Return the parser of all commands."""
    parser = Parser(
        prog="topgraft", description="Folders of labelled images in, a validated, blessed, servable classifier out."
    )
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    verbosity, output, config, images = make_shared_parsers()

    def add(name: str, command: Callable[[argparse.Namespace], int | None], summary: str, *parents: Parser) -> Parser:
        epilog = BEAM_FLAGS if name in BEAM_COMMANDS else None
        added = subparsers.add_parser(name, parents=parents, help=summary, epilog=epilog)
        added.set_defaults(command=command, command_name=name)
        return added

    run = add(
        "run", commands.run_command, "run the pipeline from images to report; finished stages are skipped", config
    )
    stage = run.add_mutually_exclusive_group()
    stage.add_argument("--from", dest="first", choices=STAGES, help="run this stage and all later ones again")
    stage.add_argument("--only", choices=STAGES, help="run just this stage again")
    plan = add(
        "plan",
        commands.plan_command,
        "estimate time, memory and cost of a run from its last run or short trial runs",
        config,
    )
    plan.add_argument("--images", type=image_count, help="number of images, such as 1e8 (default: the config's)")
    plan.add_argument("--workers", type=positive, help="workers of a Beam runner (default: only this machine)")
    plan.add_argument("--vcpus", type=positive, default=4, help="vCPUs per worker (default 4)")
    plan.add_argument("--price", type=at_least_0, help="price of a vCPU-hour, in any currency")
    plan.add_argument("--measure", action="store_true", help="make new trial runs in addition to the stored ones")
    curve = add(
        "curve", commands.curve_command, "measure accuracy by training images per class, over random draws", config
    )
    curve.add_argument("--shots", help="images per class, or fractions of them, such as 15,30 or 60%%")
    curve.add_argument("--draws", type=positive, help="random draws per number of images (default 5)")
    add("init", commands.init_command, "write the config that a folder of images stands for, without a run", config)
    model = Parser(add_help=False)
    model.add_argument("model", type=path, help=MODEL)
    predict = add("predict", commands.predict_command, "classify images with an exported model", model, images)
    predict.add_argument(
        "--beam", action="append", metavar="KEY=VALUE", help="run as a Beam job: runner=..., shards=..., ..."
    )
    classify = add("classify", commands.classify_command, "classify images with a backbone's own classes", images)
    classify.add_argument("--backbone", default="efficientnet_lite0", help="a name (default efficientnet_lite0)")
    export = add(
        "export",
        commands.export_command,
        "write the model of a finished run in another format, beside its SavedModel",
        model,
        output,
    )
    export.add_argument("--to", choices=["tflite", "onnx", "openvino"], required=True, help="tflite: also in int8")
    compare = add("compare", commands.compare_command, "compare two models on the test images that both have", output)
    for name in ("first", "second"):
        compare.add_argument(name, type=path, help=MODEL)
    compare.add_argument("--output", type=path, help="write a page with the images gained and lost to this .html file")
    worker = add("worker", commands.worker_command, "start the workers of jobs on Flink or Spark on request", verbosity)
    worker.add_argument("--port", type=int, default=50000, help="of this host only (default 50000)")
    serve = add("serve", commands.serve_command, "serve an exported model over HTTP, with a web page", model, verbosity)
    serve.add_argument("--port", type=int, default=8501, help="default 8501; 0 takes a free port")
    serve.add_argument("--host", default="127.0.0.1", help="default 127.0.0.1, only this machine; 0.0.0.0 for all")
    serve.add_argument("--name", help="name of the model in its URLs (default: the run's)")
    add_backbones(subparsers.add_parser("backbones", help="list, show or fetch backbones"), verbosity, output)
    return parser


def add_backbones(backbones: argparse.ArgumentParser, verbosity: Parser, output: Parser) -> None:
    """Add the actions of topgraft backbones to its parser."""
    backbones.set_defaults(command=commands.backbones_command, pbtxt=None, tensorboard=None)
    actions = backbones.add_subparsers(required=True, metavar="ACTION", dest="action")
    actions.add_parser("list", parents=[output], help="names, sizes, widths, licences, and which are in the cache")
    show = actions.add_parser("show", parents=[verbosity], help="input, layers with shapes, numbers of operations")
    fetch = actions.add_parser("fetch", parents=[verbosity], help="download a backbone into the cache")
    for action in (show, fetch):
        action.add_argument("name", help="a name, a Keras application, a TF-Hub URL or a folder")
    show.add_argument("--pbtxt", type=path, metavar="FILE", help="write the graph as text")
    show.add_argument("--tensorboard", type=path, metavar="DIR", help="write the graph as TensorBoard events")


def make_shared_parsers() -> tuple[Parser, Parser, Parser, Parser]:
    """Return the parsers of arguments that commands share: verbosity, output, config and images."""
    verbosity = Parser(add_help=False)
    verbosity.add_argument("--verbose", action="store_true", help="show the messages of TensorFlow and Beam")
    verbosity.add_argument("--quiet", action="store_true", help="show only errors and the last line, the verdict")
    output = Parser(add_help=False, parents=[verbosity])
    output.add_argument("--json", action="store_true", help="print the result as JSON, everything else on stderr")
    config = Parser(add_help=False, parents=[output])
    config.add_argument(
        "place", type=path, nargs="?", help="images (a folder or a manifest), or a config, which ends in .yaml"
    )
    config.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="config keys, such as train.epochs=20"
    )
    images = Parser(add_help=False, parents=[output])
    images.add_argument("paths", nargs="+", type=path, metavar="PATH", help="image files, folders of them, or globs")
    images.add_argument("--output", type=path, help="write to this .csv, .jsonl or .html file, not to the terminal")
    images.add_argument(
        *("--top", "--top-k"), dest="top_k", metavar="K", type=positive, default=5, help="classes to list (default 5)"
    )
    return verbosity, output, config, images


def split_flags(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Return the words of a command, and Beam's flags after -- of a command that runs on Beam."""
    if arguments[:1] and arguments[0] in BEAM_COMMANDS and "--" in arguments:
        end = arguments.index("--")
        return arguments[:end], arguments[end + 1 :]
    return arguments, []


def path(text: str) -> Path:
    """Parse a path, local or in Cloud Storage; expand the '~' that a shell leaves in words like --output=~/x.csv."""
    return as_path(expand_home(text))


def positive(text: str) -> int:
    """Parse an integer of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of 1 or more")
    return int(text)


def at_least_0(text: str) -> float:
    """Parse a finite number of at least 0."""
    try:
        number = float(text)
    except ValueError:
        number = -1
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of 0 or more")
    return number


def image_count(text: str) -> int:
    """Parse a number of images, such as 1000 or 1e8."""
    number = at_least_0(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of 1 or more")
    return round(number)


def silence_libraries(verbose: bool) -> None:
    """Hide the libraries' messages unless verbose; call it before they are imported."""
    if verbose:
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    warnings.filterwarnings("ignore")
    logging.getLogger().setLevel(logging.ERROR)
    for name in ("apache_beam", "tensorflow", "absl", "root"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for name in ("gcsfs", "apache_beam.runners.common"):  # they log the errors that they raise
        logging.getLogger(name).setLevel(logging.CRITICAL)


def run_and_exit() -> None:
    """Run one command and exit with its status."""
    try:
        status = main()
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as head, closed the pipe
        status = BROKEN_PIPE
    sys.stderr.flush()
    # Not sys.exit: while the interpreter shuts down, TensorFlow's functions print errors.
    os._exit(status)


if __name__ == "__main__":
    run_and_exit()
