"""Warm start: values of the head's variables before the first training step."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from components.errors import UserError
from components.features import AUTO
from components.run_dir import RunDir
from components.storage.places import plain_folder
from components.train.logistic_regression import Linear
from components.train.model import L2, TRAINING_SCOPE
from components.train.normalization import MEASURED, Variables
from components.train.settings import SIGMOID, Architecture, no_trained_run

HEAD_VARIABLES = ("mean", "scale", "whitening", "weights", "biases")
WEIGHTS, BIASES = f"{TRAINING_SCOPE}/weights", f"{TRAINING_SCOPE}/biases"


def set_output(linear: Linear, output: str) -> Variables:
    """Return the output layer's variables for a linear head; a sigmoid output is the second class minus the first."""
    weights, biases = linear
    if output == SIGMOID:
        weights, biases = weights[:, 1:] - weights[:, :1], biases[1:] - biases[:1]
    return {WEIGHTS: weights, BIASES: biases}


def read_head(folder: Path) -> Variables:
    """Return the variables of a trained head; raises TensorFlow's errors where there is no checkpoint."""
    with plain_folder(folder) as plain:
        reader = tf.train.load_checkpoint(str(plain))
        names = [name for name in reader.get_variable_to_shape_map() if name.startswith(f"{TRAINING_SCOPE}/")]
        return {name: reader.get_tensor(name) for name in names if name.rpartition("/")[2] in HEAD_VARIABLES}


def read_former_head(former: Path, labels: Sequence[str], backbone_id: str, architecture: Architecture) -> Variables:
    """Return the variables of a former run's head for these classes: known ones keep their weights, new ones are zeros.

    Raises UserError where the run has no trained head, or one of another backbone, architecture or set of classes.
    """
    run = RunDir(former)
    try:
        record = json.loads(run.record.read_text(encoding="utf-8"))
        names = run.labels.read_text(encoding="utf-8").split("\n")[:-1]
        start = read_head(run.model)
        backbone, head = record["backbone"], record["config"].get("head", {})
    except (OSError, ValueError, KeyError, tf.errors.OpError) as error:
        raise no_trained_run(former) from error
    if backbone.get("id") != backbone_id:
        raise UserError(
            f"The head in '{former}' was trained on the backbone '{backbone.get('name')}' ({backbone.get('id')}), this "
            f"run uses another ({backbone_id}): use the same backbone or leave train.warm_start out."
        )
    biases = [start.get(f"{TRAINING_SCOPE}/hidden{number}/biases") for number in range(len(architecture.hidden))]
    widths = [values is not None and values.shape for values in biases]
    activations = [layer["activation"] for layer in head.get("hidden", [])]
    scaled = len(MEASURED.get(architecture.normalize, ()))
    same = (
        widths == [(layer.units,) for layer in architecture.hidden]
        and activations == [layer.activation for layer in architecture.hidden]
        and head.get("normalize", L2) in (architecture.normalize, AUTO)  # auto by the number of variables
        and len(start) == 2 * (len(widths) + 1) + scaled
    )
    if not same:
        raise UserError(
            f"The head in '{former}' has another architecture than this config's: give both the same 'head' or leave "
            f"train.warm_start out."
        )
    if architecture.output == SIGMOID:
        if start[BIASES].shape != (1,) or names != list(labels):
            raise UserError(
                f"The head in '{former}' is for the classes {names} and has no single output for {list(labels)}: set "
                f"head.output to softmax in both or leave train.warm_start out."
            )
        return start
    known = {name: column for column, name in enumerate(names)}
    if start[BIASES].shape != (len(names),) or not known.keys() & set(labels):
        raise UserError(
            f"The head in '{former}' has none of these classes or has a single output: give a run with some of these "
            f"classes and head.output softmax, or leave train.warm_start out."
        )
    columns = [known.get(label, -1) for label in labels]
    for name in (WEIGHTS, BIASES):
        values = np.concatenate([start[name], np.zeros_like(start[name][..., :1])], -1)
        start[name] = values[..., columns]
    return start
