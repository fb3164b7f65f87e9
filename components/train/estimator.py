"""The Estimator of the head, and what happens between its epochs: evaluation, the best checkpoint, early stopping."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
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
    """One row of history.csv; losses are mean cross entropies, accuracies lie in [0, 1], val's are nan without val."""

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
        """Train on the batches of all epochs, evaluating after each; return their history.

        It ends at the steps of the head's optimisation, which may cut the last epoch short, or early after `patience`
        epochs without a better one; without validation batches the last epoch is kept. start gives first values of
        variables by name; one that holds the output layer is a trained head, and counts as epoch 0. Raises UserError
        for a loss that is no number any more.
        """
        start, optimisation = start or {}, self.params["head"].optimisation
        recorder = EpochRecorder(
            self,
            val,
            train.per_pass,
            patience,
            lambda done: progress.report(done, epochs, "epochs"),
            keep_start=val is not None and WEIGHTS in start,
        )
        try:
            self.train(train.input_fn, [StartValues(start), recorder], optimisation.steps)
        except tf.estimator.NanLossDuringTrainingError as error:
            raise UserError(
                f"Training diverged after {recorder.epochs} epochs, the loss is no number any more: lower "
                f"{'train.finetune' if optimisation.backbone_rate else 'train'}.learning_rate."
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


class EpochRecorder(tf.compat.v1.train.SessionRunHook):
    """Evaluates on the validation split after each epoch, within training; saves a checkpoint when it is the best."""

    def __init__(
        self,
        estimator: HeadClassifier,
        val: Batches | None,
        steps_per_epoch: int,
        patience: int | None,
        on_epoch: Callable[[int], None],
        keep_start: bool,
    ):
        self._estimator = estimator
        self._val = val
        self._steps_per_epoch = steps_per_epoch
        self._patience = patience
        self._on_epoch = on_epoch
        self._keep_start = keep_start
        self._batches: list[tuple[int, float, float]] = []  # images, loss and accuracy of those of this epoch
        self._evaluator: RepeatedEvaluation | None = None
        # A new writer writes the graph around it, with all the constants of a backbone; ours is written without.
        with tf.Graph().as_default():
            self._training_events, self._events = map(
                v1.summary.FileWriterCache.get, (estimator.model_dir, estimator.eval_dir())
            )
        self.history: list[Epoch] = []

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
        if self._val:
            self._evaluator = RepeatedEvaluation(self._estimator, self._val)
            variables = {variable.name: variable for variable in v1.global_variables()}
            self._evaluated = {name: variables[name] for name in self._evaluator.variables}

    def after_create_session(self, session: tf.compat.v1.Session, coord: tf.train.Coordinator) -> None:
        self._training_events.add_graph(self._graph_def)
        if self._keep_start:
            self._end_epoch(session, 0)

    def before_run(self, run_context: Any) -> tf.compat.v1.train.SessionRunArgs:
        return v1.train.SessionRunArgs(self._fetches)

    def after_run(self, run_context: Any, run_values: tf.compat.v1.train.SessionRunValues) -> None:
        self._batches.append(tuple(run_values.results))
        if len(self._batches) == self._steps_per_epoch:
            self._end_epoch(run_context.session, self.epochs + 1)
            best = max(self.history, key=epoch_rank).epoch
            if self._patience and self.epochs - best >= self._patience:
                run_context.request_stop()

    def end(self, session: tf.compat.v1.Session) -> None:
        if self._batches:  # the steps asked for ended within an epoch
            self._end_epoch(session, self.epochs + 1)
        if self._evaluator:
            self._evaluator.close()
        else:  # nothing tells epochs apart, so the last is kept
            self._save(session)
        self._events.flush()

    @property
    def epochs(self) -> int:
        """How many epochs are done."""
        return self.history[-1].epoch if self.history else 0

    def _end_epoch(self, session: tf.compat.v1.Session, number: int) -> None:
        images, *measured = np.array(self._batches or [(1, math.nan, math.nan)], np.float64).T
        loss, accuracy = (np.average(values, weights=images) for values in measured)  # the last batch may be short
        self._batches.clear()
        val = {"cross_entropy": float("nan"), "accuracy": float("nan")}
        if self._evaluator:
            val = self._evaluator.evaluate(session.run(self._evaluated))
        step = session.run(self._step)
        _write_scalars(self._training_events, {"cross_entropy": loss, "accuracy": accuracy}, step)
        _write_scalars(self._events, val, step)
        epoch = Epoch(number, float(loss), float(accuracy), val["cross_entropy"], val["accuracy"])
        if self._evaluator and (not self.history or epoch_rank(epoch) > max(map(epoch_rank, self.history))):
            self._save(session)
        self.history.append(epoch)
        self._on_epoch(number)

    def _save(self, session: tf.compat.v1.Session) -> None:
        path = f"{self._estimator.model_dir}/model.ckpt"
        self._saver.save(session, path, session.run(self._step), write_meta_graph=False)


def _write_scalars(events: tf.compat.v1.summary.FileWriter, values: Mapping[str, float], step: int) -> None:
    # Under the same tags for training and validation, which TensorBoard then draws in one chart; nan is not measured.
    measured = [v1.Summary.Value(tag=name, simple_value=value) for name, value in values.items() if not np.isnan(value)]
    events.add_summary(v1.Summary(value=measured), step)


class RepeatedEvaluation:
    """Evaluates an Estimator on the same data with any weights, in one graph and session for all epochs of a training.

    Estimator.evaluate, and InMemoryEvaluatorHook likewise, opens and closes a session each time, which takes longer
    than the validation split of a small set does.
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
        self._session = v1.Session(graph=graph, config=estimator.config.session_config)

    @property
    def variables(self) -> list[str]:
        """The names of the variables that it needs."""
        return list(self._new)

    def evaluate(self, weights: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Return the metrics over all batches that values of the variables, by their names, give."""
        self._session.run(self._start, {placeholder: weights[name] for name, placeholder in self._new.items()})
        for _ in range(self._batches):
            self._session.run(self._updates)
        return {name: float(value) for name, value in self._session.run(self._values).items()}

    def close(self) -> None:
        """Free the session."""
        self._session.close()


def epoch_rank(epoch: Epoch) -> tuple[float, float]:
    """Order epochs by validation accuracy, then by validation loss; without validation, by their number."""
    if np.isnan(epoch.val_accuracy):
        return epoch.epoch, 0.0
    return epoch.val_accuracy, -epoch.val_loss
