"""Train: the Estimator fits a head on the bottlenecks in memory and keeps its best checkpoint."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable, NamedTuple

import numpy as np
import tensorflow as tf

from components.features import BOTTLENECK, Bottlenecks, Examples, Head, RunDir, Work
from components.files import replacing_folder, write_csv
from components.model import EVALUATION_SCOPE, TRAINING_SCOPE, Optimisation, model_fn
from components.progress import Progress
from components.shards import BottleneckTable, read_bottlenecks, shard_files

v1 = tf.compat.v1

EVALUATION_BATCH = 1024

InputFn = Callable[[], tf.data.Dataset]


class Epoch(NamedTuple):
    """One row of history.csv; losses are mean cross entropies, accuracies lie in [0, 1]."""

    epoch: int
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float


class HeadClassifier(tf.estimator.Estimator):
    """The Estimator of the head; its model directory holds one checkpoint, the best by validation accuracy."""

    def __init__(
        self, model_dir: Path, labels_file: Path, classes: int, seed: int, optimisation: Optimisation | None = None
    ):
        config = tf.estimator.RunConfig(
            tf_random_seed=seed,
            save_checkpoints_steps=None,  # fit keeps the best epoch itself
            save_checkpoints_secs=None,
            save_summary_steps=50,
            log_step_count_steps=None,
        )
        params = {"classes": classes, "labels_file": str(labels_file), "optimisation": optimisation}
        super().__init__(model_fn, str(model_dir), config, params)

    def fit(
        self, train: BottleneckTable, val: BottleneckTable, epochs: int, batch_size: int, seed: int, progress: Progress
    ) -> list[Epoch]:
        """Train for a number of epochs, evaluating after each; return their history."""
        steps_per_epoch = math.ceil(len(train.labels) / batch_size)
        recorder = EpochRecorder(
            self, evaluation_input(val), steps_per_epoch, lambda done: progress.report(done, epochs, "epochs")
        )
        self.train(training_input(train, epochs, batch_size, seed), hooks=[recorder])
        return recorder.history


class EpochRecorder(tf.estimator.experimental.InMemoryEvaluatorHook):
    """Evaluates on the validation split after each epoch, within training; saves a checkpoint when it is the best."""

    def __init__(
        self, estimator: HeadClassifier, input_fn: InputFn, steps_per_epoch: int, on_epoch: Callable[[int], None]
    ):
        self._metrics = _MetricReader()
        super().__init__(estimator, input_fn, hooks=[self._metrics], every_n_iter=steps_per_epoch)
        self._steps_per_epoch = steps_per_epoch
        self._on_epoch = on_epoch
        self._batches: list[tuple[float, float]] = []
        self.history: list[Epoch] = []

    def begin(self) -> None:
        super().begin()
        graph = v1.get_default_graph()
        self._graph_def = graph.as_graph_def(add_shapes=True)
        self._fetches = [
            graph.get_tensor_by_name(f"{TRAINING_SCOPE}/cross_entropy:0"),
            graph.get_tensor_by_name(f"{EVALUATION_SCOPE}/batch_accuracy:0"),
        ]
        self._saver = v1.train.Saver(max_to_keep=1, save_relative_paths=True)

    def after_create_session(self, session: tf.compat.v1.Session, coord: tf.train.Coordinator) -> None:
        v1.summary.FileWriterCache.get(self._estimator.model_dir).add_graph(self._graph_def)
        super().after_create_session(session, coord)

    def before_run(self, run_context: Any) -> tf.compat.v1.train.SessionRunArgs:
        return v1.train.SessionRunArgs(self._fetches)

    def after_run(self, run_context: Any, run_values: tf.compat.v1.train.SessionRunValues) -> None:
        self._batches.append(tuple(run_values.results))
        super().after_run(run_context, run_values)

    def end(self, session: tf.compat.v1.Session) -> None:
        """Nothing more: the last epoch was evaluated when it ended."""

    def _evaluate(self, train_session: tf.compat.v1.Session) -> None:
        super()._evaluate(train_session)
        if not self._batches:  # before the first step
            return
        loss, accuracy = np.mean(self._batches, axis=0, dtype=np.float64)
        self._batches.clear()
        val = self._metrics.values
        epoch = Epoch(len(self.history) + 1, float(loss), float(accuracy), val["cross_entropy"], val["accuracy"])
        if not self.history or epoch_rank(epoch) > max(map(epoch_rank, self.history)):
            step = v1.train.get_global_step(train_session.graph)
            self._saver.save(train_session, f"{self._estimator.model_dir}/model.ckpt", step, write_meta_graph=False)
        self.history.append(epoch)
        self._on_epoch(len(self.history))


class _MetricReader(tf.compat.v1.train.SessionRunHook):
    """Reads the streaming metrics when an evaluation ends."""

    def begin(self) -> None:
        graph = v1.get_default_graph()
        self._tensors = {
            name: graph.get_tensor_by_name(f"{EVALUATION_SCOPE}/{name}/value:0")
            for name in ("accuracy", "cross_entropy")
        }

    def end(self, session: tf.compat.v1.Session) -> None:
        self.values = {name: float(value) for name, value in session.run(self._tensors).items()}


def epoch_rank(epoch: Epoch) -> tuple[float, float]:
    """Order epochs by validation accuracy, then by validation loss."""
    return epoch.val_accuracy, -epoch.val_loss


def training_input(table: BottleneckTable, epochs: int, batch_size: int, seed: int) -> InputFn:
    """Return an input_fn of shuffled batches; every epoch sees each example once, in an order that the seed decides."""

    def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        random = np.random.default_rng(seed)
        for _ in range(epochs):
            order = random.permutation(len(table.labels))
            for start in range(0, len(order), batch_size):
                rows = order[start : start + batch_size]
                yield table.vectors[rows], table.labels[rows]

    return lambda: _dataset(batches, table.vectors.shape[1])


def evaluation_input(table: BottleneckTable) -> InputFn:
    """Return an input_fn that yields every example once, in order."""

    def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for start in range(0, len(table.labels), EVALUATION_BATCH):
            yield table.vectors[start : start + EVALUATION_BATCH], table.labels[start : start + EVALUATION_BATCH]

    return lambda: _dataset(batches, table.vectors.shape[1])


def _dataset(batches: Callable[[], Iterator[tuple[np.ndarray, np.ndarray]]], dim: int) -> tf.data.Dataset:
    # From a generator, not from tensors: those would be constants of the graph, limited to 2 GB and written with it.
    signature = (tf.TensorSpec([None, dim], tf.float32), tf.TensorSpec([None], tf.int64))
    dataset = tf.data.Dataset.from_generator(batches, output_signature=signature)
    return dataset.map(lambda vectors, labels: ({BOTTLENECK: vectors}, labels)).prefetch(2)


def train_head(
    examples: Examples,
    bottlenecks: Bottlenecks,
    run: RunDir,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    l2: float,
    seed: int,
    progress: Progress,
) -> Head:
    """Fit the head on the train split; leaves model/ with TensorBoard events, history.csv and the best checkpoint."""
    folder = run.bottlenecks(bottlenecks.backbone_id)
    train, val = (
        read_bottlenecks(shard_files(folder, split, examples.shards), bottlenecks.dim) for split in ("train", "val")
    )
    steps = epochs * math.ceil(len(train.labels) / batch_size)
    with replacing_folder(run.model) as partial:
        optimisation = Optimisation(steps, learning_rate, l2)
        classifier = HeadClassifier(partial, run.labels, len(examples.labels), seed, optimisation)
        history = classifier.fit(train, val, epochs, batch_size, seed, progress)
        v1.summary.FileWriterCache.clear()
        rows = [[epoch.epoch, *(f"{value:.6f}" for value in epoch[1:])] for epoch in history]
        write_csv(partial / run.history.name, Epoch._fields, rows)
    best = max(history, key=epoch_rank)
    return Head(Work(len(train.labels), computed=len(train.labels)), best.epoch, best.val_accuracy, best.val_loss)


def load_classifier(examples: Examples, run: RunDir, seed: int) -> HeadClassifier:
    """Return the trained Estimator of a run, ready to evaluate, predict and export."""
    return HeadClassifier(run.model, run.labels, len(examples.labels), seed)
