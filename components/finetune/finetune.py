"""Fine-tune: train the head together with the backbone's last layers on images, and write the new backbone."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from components.backbones.prepare import load_graph, write_backbone
from components.features import BOTTLENECK, PIXELS
from components.finetune.inputs import ImageSource, evaluate_images, train_images
from components.finetune.settings import TunedRecipe, Tuning
from components.finetune.trainable_graph import (
    add_trainable,
    read_constants,
    replace_constants,
    weights_after,
    weights_of_last,
)
from components.outcomes import Bottlenecks, Examples, Head, TunedHead, Work
from components.run_dir import RunDir
from components.shards.records import naming_damage, shard_files
from components.storage.ownership import replacing_folder
from components.terminal.progress import Progress
from components.train.estimator import HeadClassifier, epoch_rank
from components.train.model import HeadParams, model_fn
from components.train.optimization import Optimization
from components.train.settings import Architecture, Recipe, resolve_architecture
from components.train.train import read_source, write_history
from components.train.training_plan import make_optimization, weigh_data
from components.train.warm_start import read_head

v1 = tf.compat.v1

# In half precision, gradients of the loss itself would fall below the smallest number (Micikevicius et al. 2018).
LOSS_SCALE = 128.0
# The note where no epoch was better than the head alone.
UNIMPROVED = "No epoch of fine-tuning was better on the validation split: the model is the one before fine-tuning."


def finetune_backbone(
    examples: Examples,
    bottlenecks: Bottlenecks,
    head: Head,
    run: RunDir,
    architecture: Architecture,
    recipe: TunedRecipe,
    progress: Progress,
) -> TunedHead:
    """Train head and last layers on the train split's images; write a backbone, and finetuned/ as train does model/.

    The start, the head that has not seen the validation split, counts as epoch 0: it is kept, and no backbone written,
    where no epoch is better on that split.
    Raises DamagedShard for a damaged file and UserError for layers that the backbone does not have.
    """
    tuning, seed = recipe.finetune, recipe.seed or 0
    assert tuning
    graph_def = load_graph(run.backbones / bottlenecks.backbone_id)
    by_name, layers = tuning.behind, tuning.layers or 0
    weights = weights_after(graph_def, by_name) if by_name else weights_of_last(graph_def, layers)
    train, val = (
        ImageSource(shard_files(run.examples, split, examples.shards), examples.splits[split], graph_def)
        for split in ("train", "val")
    )
    optimization = plan_tuning(examples, bottlenecks, head, run, recipe, tuning)
    architecture = resolve_architecture(architecture, len(examples.labels), bottlenecks.dim)
    params = HeadParams(len(examples.labels), str(run.labels), architecture, optimization)
    start = {**read_head(head.folder(run)), **read_constants(graph_def, weights)}
    build = functools.partial(tuned_model_fn, graph_def, weights)
    with replacing_folder(run.finetuned) as partial, naming_damage([*train.files, *val.files]):
        classifier = HeadClassifier(partial, params, seed, build, half_precision() if has_gpu() else None)
        batches = train_images(train, tuning, tuning.epochs, tuning.batch_size, seed)
        history = classifier.fit(batches, evaluate_images(val), tuning.epochs, progress, start, tuning.patience)
        v1.summary.FileWriterCache.clear()
        write_history(history, partial / run.history.name)
        best = max(history, key=epoch_rank)
        backbone_id, notes = bottlenecks.backbone_id, [UNIMPROVED]
        if best.epoch:
            notes = []
            values = {name: classifier.get_variable_value(name) for name in weights}
            name = f"{bottlenecks.backbone_name}, {tuning.part} fine-tuned"
            backbone_id = write_tuned(graph_def, values, name, bottlenecks.backbone_id, run.backbones)
    work = Work(train.count, computed=train.count)
    refit = head.refit and not best.epoch  # the model is then the one before
    return TunedHead(work, best.epoch, best.val_accuracy, best.val_loss, head.l2, refit, notes, backbone_id)


def plan_tuning(
    examples: Examples, bottlenecks: Bottlenecks, head: Head, run: RunDir, recipe: Recipe, tuning: Tuning
) -> Optimization:
    """Return the optimization of the head's training, with its L2 weight and the tuning's rates, epochs and batches."""
    class_weights = weigh_data(recipe.class_weight, read_source(examples, bottlenecks, run, "train"), examples.labels)
    rate, epochs, size = tuning.head_learning_rate, tuning.epochs, tuning.batch_size
    recipe = replace(recipe, steps=None, epochs=epochs, learning_rate=rate, batch_size=size, l2=head.l2)
    optimization = make_optimization(recipe, examples.splits["train"], class_weights)
    return replace(optimization, backbone_rate=tuning.learning_rate, loss_scale=LOSS_SCALE if has_gpu() else 1.0)


def tuned_model_fn(
    graph_def: Any,
    weights: Sequence[str],
    features: dict[str, tf.Tensor],
    labels: tf.Tensor | None,
    mode: str,
    params: dict[str, Any],
) -> tf.estimator.EstimatorSpec:
    """Build the network, some of its constants as variables, over pixels float32[N, S, S, 3], and the head over it."""
    bottleneck, _ = add_trainable(graph_def, features[PIXELS], weights)
    return model_fn({BOTTLENECK: bottleneck}, labels, mode, params)


def write_tuned(graph_def: Any, values: Mapping[str, np.ndarray], name: str, former: str, folder: Path) -> str:
    """Write the canonical backbone with new values of some constants below a folder, and return its id.

    The classes of the former are dropped: their layer does not fit the new bottleneck.
    """
    tuned = v1.graph_util.extract_sub_graph(replace_constants(graph_def, values), [BOTTLENECK])
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(tuned, name="")
    return write_backbone(name, graph, (), f"fine-tuned from {former}", folder).id


def has_gpu() -> bool:
    """Tell whether TensorFlow sees a GPU."""
    return bool(tf.config.list_physical_devices("GPU"))


def half_precision() -> tf.compat.v1.ConfigProto:
    """Return a session's settings under which TensorFlow computes in float16 on a GPU where that is safe."""
    config = v1.ConfigProto(allow_soft_placement=True)
    rewrites = config.graph_options.rewrite_options
    rewrites.auto_mixed_precision = type(rewrites).ON
    return config
