"""The Estimator of the head, with evaluation, the best checkpoint and early stopping after each epoch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from components.errors import UserError
from components.terminal.progress import Progress
from components.train.inputs import Batches
from components.train.model import EVALUATION_SCOPE, TRAINING_SCOPE, HeadParams, model_fn
from components.train.warm_start import WEIGHTS

v1 = tf.compat.v1


class Epoch(NamedTuple):
    """One row of history.csv: losses are mean cross entropies, accuracies are in [0, 1]; without val, val's are nan."""

    epoch: int
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float


class HeadClassifier(tf.estimator.Estimator):
    """The Estimator of the head; its model directory holds one checkpoint, the best by validation accuracy."""

    def __init__(
        self,
        model_dir: Path,
        head: HeadParams,
        seed: int,
        build: Callable[..., tf.estimator.EstimatorSpec] = model_fn,
        session: tf.compat.v1.ConfigProto | None = None,
    ):
        config = tf.estimator.RunConfig(
            tf_random_seed=seed,
            session_config=session,
            save_checkpoints_steps=None,  # fit keeps the best epoch itself
            save_checkpoints_secs=None,
            save_summary_steps=50,
            log_step_count_steps=None,
        )
        super().__init__(build, str(model_dir), config, {"head": head})

    def fit(
        self,
        train: Batches,
        val: Batches | None,
        epochs: int,
        progress: Progress,
        start: Mapping[str, np.ndarray] | None = None,
        patience: int | None = None,
    ) -> list[Epoch]:
        """Train on the batches of all epochs, evaluate after each, and return their history.

        Training ends at the steps of the head's optimization, which may cut the last epoch short, or after `patience`
        epochs without a better one; without validation batches the last epoch is kept. start gives first values of
        variables by name; with the output layer it is a trained head and counts as epoch 0. Raises UserError for a loss
        of nan.
        """
        start, optimization = start or {}, self.params["head"].optimization
        recorder = EpochRecorder(
            self,
            val,
            train.per_pass,
            patience,
            lambda done: progress.report(done, epochs, "epochs"),
            keep_start=val is not None and WEIGHTS in start,
        )
        try:
            self.train(train.input_fn, [StartValues(start), recorder], optimization.steps)
        except tf.estimator.NanLossDuringTrainingError as error:
            raise UserError(
                f"Training diverged after {recorder.epochs} epochs, the loss is not a number: lower "
                f"{'train.finetune' if optimization.backbone_rate else 'train'}.learning_rate."
            ) from error
        return recorder.history


class StartValues(tf.compat.v1.train.SessionRunHook):
    """Sets variables, by their names without ':0', before the first step."""

    def __init__(self, values: Mapping[str, np.ndarray]):
        self._values = values

    def begin(self) -> None:
        variables = {variable.name.partition(":")[0]: variable for variable in v1.global_variables()}
        # Fed, not constants: the graph would be written with them.
        self._feeds = {
            v1.placeholder(variables[name].dtype, value.shape): value for name, value in self._values.items()
        }
        self._assign = [variables[name].assign(new) for name, new in zip(self._values, self._feeds, strict=True)]

    def after_create_session(self, session: tf.compat.v1.Session, coord: tf.train.Coordinator) -> None:
        session.run(self._assign, self._feeds)


@dataclass(eq=False)
class EpochRecorder(tf.compat.v1.train.SessionRunHook):
    """Evaluates on the validation split after each epoch, within training; saves a checkpoint when it is the best."""

    estimator: HeadClassifier
    val: Batches | None
    steps_per_epoch: int
    patience: int | None
    on_epoch: Callable[[int], None]
    keep_start: bool
    history: list[Epoch] = field(default_factory=list)
    _batches: list[tuple[int, float, float]] = field(default_factory=list)  # images, loss and accuracy in this epoch
    _evaluator: RepeatedEvaluation | None = None

    def __post_init__(self) -> None:
        # A new writer writes the current graph, with all the constants of a backbone; begin writes it without these.
        folders = self.estimator.model_dir, self.estimator.eval_dir()
        with tf.Graph().as_default():
            self._training_events, self._events = map(v1.summary.FileWriterCache.get, folders)

    def begin(self) -> None:
        graph = v1.get_default_graph()
        self._graph_def = graph.as_graph_def(add_shapes=True)
        for node in self._graph_def.node:
            if node.op == "Const":
                node.attr["value"].tensor.tensor_content = b""
        self._fetches = [
            v1.size(graph.get_tensor_by_name(f"{TRAINING_SCOPE}/logits:0")[:, 0]),
            graph.get_tensor_by_name(f"{TRAINING_SCOPE}/cross_entropy:0"),
            graph.get_tensor_by_name(f"{EVALUATION_SCOPE}/batch_accuracy:0"),
        ]
        self._step = v1.train.get_global_step()
        self._saver = v1.train.Saver(max_to_keep=1, save_relative_paths=True)
        if self.val:
            self._evaluator = RepeatedEvaluation(self.estimator, self.val)
            variables = {variable.name: variable for variable in v1.global_variables()}
            self._evaluated = {name: variables[name] for name in self._evaluator.variables}

    def after_create_session(self, session: tf.compat.v1.Session, coord: tf.train.Coordinator) -> None:
        self._training_events.add_graph(self._graph_def)
        if self.keep_start:
            self._end_epoch(session, 0)

    def before_run(self, run_context: Any) -> tf.compat.v1.train.SessionRunArgs:
        return v1.train.SessionRunArgs(self._fetches)

    def after_run(self, run_context: Any, run_values: tf.compat.v1.train.SessionRunValues) -> None:
        self._batches.append(tuple(run_values.results))
        if len(self._batches) == self.steps_per_epoch:
            self._end_epoch(run_context.session, self.epochs + 1)
            best = max(self.history, key=epoch_rank).epoch
            if self.patience and self.epochs - best >= self.patience:
                run_context.request_stop()

    def end(self, session: tf.compat.v1.Session) -> None:
        if self._batches:  # training ended within an epoch
            self._end_epoch(session, self.epochs + 1)
        if self._evaluator:
            self._evaluator.close()
        else:  # nothing compares epochs, so the last is kept
            self._save(session)
        for events in (self._training_events, self._events):
            events.flush()

    @property
    def epochs(self) -> int:
        """The number of epochs done."""
        return self.history[-1].epoch if self.history else 0

    def _end_epoch(self, session: tf.compat.v1.Session, number: int) -> None:
        images, *measured = np.array(self._batches or [(1, math.nan, math.nan)], np.float64).T
        loss, accuracy = (np.average(values, weights=images) for values in measured)  # the last batch may be short
        self._batches.clear()
        val = {"cross_entropy": math.nan, "accuracy": math.nan}
        if self._evaluator:
            val = self._evaluator.evaluate(session.run(self._evaluated))
        step = session.run(self._step)
        _write_scalars(self._training_events, {"cross_entropy": loss, "accuracy": accuracy}, step)
        _write_scalars(self._events, val, step)
        epoch = Epoch(number, float(loss), float(accuracy), val["cross_entropy"], val["accuracy"])
        if self._evaluator and (not self.history or epoch_rank(epoch) > max(map(epoch_rank, self.history))):
            self._save(session)
        self.history.append(epoch)
        self.on_epoch(number)

    def _save(self, session: tf.compat.v1.Session) -> None:
        path = f"{self.estimator.model_dir}/model.ckpt"
        self._saver.save(session, path, session.run(self._step), write_meta_graph=False)


def _write_scalars(events: tf.compat.v1.summary.FileWriter, values: Mapping[str, float], step: int) -> None:
    # TensorBoard draws training and validation in one chart, as they have the same tags; nan was not measured.
    measured = [v1.Summary.Value(tag=name, simple_value=value) for name, value in values.items() if not np.isnan(value)]
    events.add_summary(v1.Summary(value=measured), step)


class RepeatedEvaluation:
    """Evaluates an Estimator on the same data with any weights, in one graph and session for all epochs of a training.

    `variables` are the names of the weights. Estimator.evaluate and InMemoryEvaluatorHook open a session each time,
    which takes longer than the validation split of a small data set does.
    """

    def __init__(self, estimator: HeadClassifier, data: Batches):
        self._batches = data.per_pass
        with tf.Graph().as_default() as graph:
            features, labels = v1.data.make_one_shot_iterator(data.input_fn().repeat()).get_next()
            spec = estimator.model_fn(features, labels, tf.estimator.ModeKeys.EVAL, estimator.config)
            self._values = {name: value for name, (value, _) in spec.eval_metric_ops.items()}
            self._updates = [update for _, update in spec.eval_metric_ops.values()]
            self._new = {variable.name: v1.placeholder(variable.dtype) for variable in v1.global_variables()}
            load = [variable.assign(self._new[variable.name]) for variable in v1.global_variables()]
            self._start = [v1.local_variables_initializer(), *load]
        self.variables = list(self._new)
        self._session = v1.Session(graph=graph, config=estimator.config.session_config)
        self.close = self._session.close

    def evaluate(self, weights: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Return the metrics over all batches for values of the variables by name."""
        self._session.run(self._start, {placeholder: weights[name] for name, placeholder in self._new.items()})
        for _ in range(self._batches):
            self._session.run(self._updates)
        return {name: float(value) for name, value in self._session.run(self._values).items()}


def epoch_rank(epoch: Epoch) -> tuple[float, float]:
    """Order epochs by validation accuracy, then by validation loss; without validation, by their number."""
    if np.isnan(epoch.val_accuracy):
        return epoch.epoch, 0.0
    return epoch.val_accuracy, -epoch.val_loss
