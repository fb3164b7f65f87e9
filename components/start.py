"""Where training starts: what the head's variables hold before the first step."""

from __future__ import annotations

import errno
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from components.errors import UserError
from components.features import RunDir
from components.logistic_regression import Linear
from components.model import L2, SIGMOID, TRAINING_SCOPE, Architecture
from components.scaling import MEASURED

PARTS = ("mean", "scale", "whitening", "weights", "biases")
WEIGHTS, BIASES = f"{TRAINING_SCOPE}/weights", f"{TRAINING_SCOPE}/biases"

Start = dict[str, np.ndarray]


def set_output(linear: Linear, output: str) -> Start:
    """Return the output layer's variables for a linear head; a sigmoid output is the second class less the first."""
    weights, biases = linear
    if output == SIGMOID:
        weights, biases = weights[:, 1:] - weights[:, :1], biases[1:] - biases[:1]
    return {WEIGHTS: weights, BIASES: biases}


class FormerRun(NamedTuple):
    """A finished run to start from: its record, its classes, its checkpoint."""

    record: dict[str, Any]
    labels: list[str]
    reader: Any


def open_former_run(former: Path) -> FormerRun:
    """Return a run whose head was trained; raises UserError where there is none."""
    run = RunDir(former)
    try:
        record = json.loads(run.record.read_text(encoding="utf-8"))
        names = run.labels.read_text(encoding="utf-8").split("\n")[:-1]
        reader = open_checkpoint(run.model)
        record["backbone"], record["config"]  # as of a run that went so far
    except (OSError, ValueError, KeyError, tf.errors.OpError) as error:
        raise UserError(
            f"train.warm_start names '{former}', which holds no trained run: give the output_dir of a finished run."
        ) from error
    return FormerRun(record, names, reader)


def open_checkpoint(folder: Path) -> Any:
    """Return a reader of the checkpoint in a folder; raises OSError or TensorFlow's errors where there is none.

    Unlike tf.train.load_checkpoint it takes no part of the path for a pattern.
    """
    state = tf.train.get_checkpoint_state(str(folder))
    if state is None:
        raise FileNotFoundError(errno.ENOENT, "no checkpoint", str(folder))
    return tf.compat.v1.train.NewCheckpointReader(state.model_checkpoint_path)


def read_former_head(former: Path, labels: Sequence[str], backbone_id: str, architecture: Architecture) -> Start:
    """Return the variables of a former run's head for these classes: known ones keep their weights, new ones are zeros.

    Raises UserError where there is no such head, or it sits on another backbone, or is built otherwise.
    """
    record, names, reader = open_former_run(former)
    backbone, head = record["backbone"], record["config"].get("head", {})
    found = backbone.get("id")
    if found != backbone_id:
        raise UserError(
            f"The head in '{former}' was trained on the backbone '{backbone.get('name')}' ({found}), this "
            f"run uses another ({backbone_id}): use the same backbone or leave train.warm_start out."
        )
    shapes = {
        name: shape for name, shape in reader.get_variable_to_shape_map().items() if name.startswith(TRAINING_SCOPE)
    }
    built = {name: shape for name, shape in shapes.items() if name.rpartition("/")[2] in PARTS}
    widths = [built.get(f"{TRAINING_SCOPE}/hidden{number}/biases") for number in range(len(architecture.hidden))]
    activations = [layer["activation"] for layer in head.get("hidden", [])]
    scaled = len(MEASURED.get(architecture.normalize, ()))
    same = (
        widths == [[layer.units] for layer in architecture.hidden]
        and activations == [layer.activation for layer in architecture.hidden]
        and head.get("normalize", L2) == architecture.normalize
        and len(built) == 2 * (len(widths) + 1) + scaled
    )
    if not same:
        raise UserError(
            f"The head in '{former}' is built otherwise than this config's: give both the same 'head' or leave "
            f"train.warm_start out."
        )
    start = {name: reader.get_tensor(name) for name in built}
    if architecture.output == SIGMOID:
        if start[BIASES].shape != (1,) or names != list(labels):
            raise UserError(
                f"The head in '{former}' tells {names} apart and has no single output for {list(labels)}: set "
                f"head.output to softmax in both or leave train.warm_start out."
            )
        return start
    known = {name: column for column, name in enumerate(names)}
    if start[BIASES].shape != (len(names),) or not known.keys() & set(labels):
        raise UserError(
            f"The head in '{former}' knows none of these classes or has a single output: give a run that shares "
            f"classes, with head.output softmax, or leave train.warm_start out."
        )
    columns = [known.get(label, -1) for label in labels]
    for name in (WEIGHTS, BIASES):
        values = np.concatenate([start[name], np.zeros_like(start[name][..., :1])], -1)
        start[name] = values[..., columns]
    return start
