"""The command line: its words, and how a command that cannot go on says so."""

from __future__ import annotations

import argparse
import logging
import math
import os
import sys
import warnings
from pathlib import Path
from typing import Any, NoReturn

from components.errors import UserError
from components.run_dir import STAGES
from components.storage.places import as_path, cloud_errors, describe_error, expand_home
from components.terminal.text import printable
from pipeline.commands import (
    backbones_command,
    classify_command,
    curve_command,
    export_command,
    plan_command,
    predict_command,
    run_command,
    serve_command,
)
from pipeline.failures import describe_failure, is_interrupt
from pipeline.terminal import answering_in_json

# Behind -- stand flags of Beam.
BEAM_COMMANDS = ("run", "curve", "predict")
BEAM_FLAGS = "Behind -- stand flags of Apache Beam, such as -- --runner=DataflowRunner --region=us-central1."
USER_ERROR, INTERRUPTED, BROKEN_PIPE = 2, 130, 141
INTERRUPTION = "interrupted; the same command continues where it stopped."


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return 0 when done (and blessed, or not gated), 2 for a mistake, 3 when not blessed."""
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
        except cloud_errors() as error:
            message = f"Cloud Storage refuses ({describe_error(error)}): check the path and your credentials."
            print(f"topgraft: {printable(message)}", file=sys.stderr)
            answer({"error": message})
            return USER_ERROR
        except (Exception, KeyboardInterrupt) as error:
            interrupted = isinstance(error, KeyboardInterrupt) or is_interrupt(error)
            message = INTERRUPTION if interrupted else describe_failure(error)
            if message is None or ("--verbose" in words and not interrupted):
                raise
            print(f"topgraft: {printable(message)}", file=sys.stderr)
            answer({"error": message})
            return INTERRUPTED if interrupted else USER_ERROR


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

    run = commands.add_parser(
        "run", parents=[answering], help="images to report; finished stages are not run again", epilog=BEAM_FLAGS
    )
    run.add_argument("config", type=place, help="a YAML file, such as configs/digits.yaml")
    run.add_argument(
        "overrides", nargs="*", metavar="key=value", help="keys of the config to set, such as train.epochs=20"
    )
    stage = run.add_mutually_exclusive_group()
    stage.add_argument("--from", dest="first", choices=STAGES, help="run again from this stage on")
    stage.add_argument("--only", choices=STAGES, help="run just this stage again")
    run.set_defaults(command=run_command)

    plan = commands.add_parser(
        "plan", parents=[answering], help="time, memory and cost of a run, by its last run or short trial runs"
    )
    plan.add_argument("config", type=place, help="a YAML file, such as configs/caltech101.yaml")
    plan.add_argument("overrides", nargs="*", metavar="key=value", help="keys of the config to set")
    plan.add_argument("--images", type=images, help="how many, such as 1e8 (default: those of the config)")
    plan.add_argument("--workers", type=positive, help="of a Beam runner (default: this machine alone)")
    plan.add_argument("--vcpus", type=positive, default=4, help="of a worker (default 4)")
    plan.add_argument("--price", type=at_least_0, help="for a vCPU-hour, in any currency")
    plan.add_argument("--measure", action="store_true", help="make trial runs again, beside those that are kept")
    plan.set_defaults(command=plan_command)

    curve = commands.add_parser(
        "curve",
        parents=[answering],
        help="accuracy by training images a class, over random draws",
        epilog=BEAM_FLAGS,
    )
    curve.add_argument("config", type=place, help="a YAML file, such as configs/caltech101.yaml")
    curve.add_argument("overrides", nargs="*", metavar="key=value", help="keys of the config to set")
    curve.add_argument("--shots", help="images a class, or shares of it, such as 15,30 or 60%%")
    curve.add_argument("--draws", type=positive, help="random draws of each (default 5)")
    curve.set_defaults(command=curve_command)

    predict = commands.add_parser(
        "predict", parents=[answering], help="classify images with an exported model", epilog=BEAM_FLAGS
    )
    predict.add_argument("export_dir", type=place, help="a version folder, such as runs/digits/export/<version>")
    add_image_arguments(predict)
    predict.add_argument(
        "--beam", action="append", metavar="KEY=VALUE", help="run as a Beam job: runner=..., shards=..., any option"
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
    export.add_argument("run_dir", type=place, help="the output_dir of a finished run, such as runs/digits")
    export.add_argument("--to", choices=["tflite"], required=True, help="tflite: float32 and int8 models for devices")
    export.set_defaults(command=export_command)

    serve = commands.add_parser("serve", parents=[shared], help="answer over HTTP with an exported model, and a page")
    serve.add_argument("export_dir", type=place, help="runs/digits/export (its newest version), or a version folder")
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
    show.add_argument("--pbtxt", type=place, metavar="FILE", help="write the graph as text")
    show.add_argument("--tensorboard", type=place, metavar="DIR", help="write the graph as TensorBoard events")
    fetch.set_defaults(pbtxt=None, tensorboard=None)
    backbones.set_defaults(command=backbones_command)
    words, flags = split_flags(arguments)
    options, rest = parser.parse_known_args(words)
    options.flags = flags
    if (
        rest
        and options.command in (run_command, plan_command, curve_command)
        and not any(word.startswith("-") for word in rest)
    ):
        options.overrides += rest  # overrides that stand behind an option
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return options


def split_flags(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Return the words of a command and, where it is one that runs on Beam, the flags behind --."""
    if arguments[:1] and arguments[0] in BEAM_COMMANDS and "--" in arguments:
        end = arguments.index("--")
        return arguments[:end], arguments[end + 1 :]
    return arguments, []


def add_image_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what every command over images takes."""
    parser.add_argument("paths", nargs="+", type=place, metavar="PATH", help="image files, folders of them, or globs")
    parser.add_argument("--output", type=place, help="write to this .csv, .jsonl or .html file, not to the terminal")
    parser.add_argument(
        *("--top", "--top-k"), dest="top_k", metavar="K", type=positive, default=5, help="classes to name (default 5)"
    )


def place(text: str) -> Path:
    """Parse a path, local or in Cloud Storage, whose '~' a shell may have left as it is, as in --output=~/x.csv."""
    return as_path(expand_home(text))


def positive(text: str) -> int:
    """Parse a number of at least 1."""
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


def images(text: str) -> int:
    """Parse a number of images, which may be written as 1e8."""
    number = at_least_0(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of 1 or more")
    return round(number)


def silence_libraries(verbose: bool) -> None:
    """Keep the libraries' own messages off the terminal unless they are asked for; call before they are imported."""
    if verbose:
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    warnings.filterwarnings("ignore")
    logging.getLogger().setLevel(logging.ERROR)
    for name in ("apache_beam", "tensorflow", "absl", "root"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for name in ("gcsfs", "apache_beam.runners.common"):  # they log what they raise
        logging.getLogger(name).setLevel(logging.CRITICAL)


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
