"""Train: the Estimator fits a head on the bottlenecks and keeps its best checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Callable, NamedTuple

import numpy as np
import tensorflow as tf

from components.features import Bottlenecks, Examples, Head, RunDir, Work
from components.files import replacing_folder, write_csv
from components.head_input import (
    Batches,
    Source,
    default_memory,
    evaluate_from_memory,
    evaluate_from_shards,
    load_vectors,
    train_from_memory,
    train_from_shards,
)
from components.model import EVALUATION_SCOPE, TRAINING_SCOPE, Optimisation, model_fn
from components.progress import Progress
from components.shards import naming_damage, shard_files

v1 = tf.compat.v1

# Adam at the default rate needs about this many steps, small data set or large: on Caltech-101 and on 18,000 made-up
# bottlenecks of 257 classes more did not raise validation accuracy.
STEPS = 300
EPOCHS = (4, 100)


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

    def fit(self, train: Batches, val: Batches, epochs: int, progress: Progress) -> list[Epoch]:
        """Train on the batches of all epochs, evaluating after each; return their history."""
        recorder = EpochRecorder(self, val, train.per_pass, lambda done: progress.report(done, epochs, "epochs"))
        self.train(train.input_fn, hooks=[recorder])
        return recorder.history


class EpochRecorder(tf.compat.v1.train.SessionRunHook):
    """Evaluates on the validation split after each epoch, within training; saves a checkpoint when it is the best."""

    def __init__(self, estimator: HeadClassifier, val: Batches, steps_per_epoch: int, on_epoch: Callable[[int], None]):
        self._estimator = estimator
        self._val = val
        self._steps_per_epoch = steps_per_epoch
        self._on_epoch = on_epoch
        self._batches: list[tuple[float, float]] = []
        self.history: list[Epoch] = []

    def begin(self) -> None:
        graph = v1.get_default_graph()
        self._graph_def = graph.as_graph_def(add_shapes=True)
        self._fetches = [
            graph.get_tensor_by_name(f"{TRAINING_SCOPE}/cross_entropy:0"),
            graph.get_tensor_by_name(f"{EVALUATION_SCOPE}/batch_accuracy:0"),
        ]
        self._weights = {variable.name: variable for variable in v1.trainable_variables()}
        self._step = v1.train.get_global_step()
        self._saver = v1.train.Saver(max_to_keep=1, save_relative_paths=True)
        self._evaluator = RepeatedEvaluation(self._estimator, self._val)
        self._events = v1.summary.FileWriterCache.get(self._estimator.eval_dir())

    def after_create_session(self, session: tf.compat.v1.Session, coord: tf.train.Coordinator) -> None:
        v1.summary.FileWriterCache.get(self._estimator.model_dir).add_graph(self._graph_def)

    def before_run(self, run_context: Any) -> tf.compat.v1.train.SessionRunArgs:
        return v1.train.SessionRunArgs(self._fetches)

    def after_run(self, run_context: Any, run_values: tf.compat.v1.train.SessionRunValues) -> None:
        self._batches.append(tuple(run_values.results))
        if len(self._batches) == self._steps_per_epoch:
            self._end_epoch(run_context.session)

    def end(self, session: tf.compat.v1.Session) -> None:
        self._evaluator.close()
        self._events.flush()

    def _end_epoch(self, session: tf.compat.v1.Session) -> None:
        loss, accuracy = np.mean(self._batches, axis=0, dtype=np.float64)
        self._batches.clear()
        weights, step = session.run([self._weights, self._step])
        val = self._evaluator.evaluate(weights)
        values = [v1.Summary.Value(tag=name, simple_value=value) for name, value in val.items()]
        self._events.add_summary(v1.Summary(value=values), step)
        epoch = Epoch(len(self.history) + 1, float(loss), float(accuracy), val["cross_entropy"], val["accuracy"])
        if not self.history or epoch_rank(epoch) > max(map(epoch_rank, self.history)):
            self._saver.save(session, f"{self._estimator.model_dir}/model.ckpt", step, write_meta_graph=False)
        self.history.append(epoch)
        self._on_epoch(len(self.history))


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
            self._new = {variable.name: v1.placeholder(variable.dtype) for variable in v1.trainable_variables()}
            load = [variable.assign(self._new[variable.name]) for variable in v1.trainable_variables()]
            self._start = [v1.local_variables_initializer(), *load]
        self._session = v1.Session(graph=graph, config=estimator.config.session_config)

    def evaluate(self, weights: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Return the metrics over all batches that weights, by the variables' names, give."""
        self._session.run(self._start, {placeholder: weights[name] for name, placeholder in self._new.items()})
        for _ in range(self._batches):
            self._session.run(self._updates)
        return {name: float(value) for name, value in self._session.run(self._values).items()}

    def close(self) -> None:
        """Free the session."""
        self._session.close()


def epoch_rank(epoch: Epoch) -> tuple[float, float]:
    """Order epochs by validation accuracy, then by validation loss."""
    return epoch.val_accuracy, -epoch.val_loss


def choose_epochs(images: int, batch_size: int) -> int:
    """Return how many epochs give about STEPS steps, within EPOCHS."""
    fewest, most = EPOCHS
    return min(max(math.ceil(STEPS / math.ceil(images / batch_size)), fewest), most)


def train_head(
    examples: Examples,
    bottlenecks: Bottlenecks,
    run: RunDir,
    epochs: int | None,
    batch_size: int,
    learning_rate: float,
    l2: float,
    max_memory: int | None,
    seed: int,
    progress: Progress,
) -> Head:
    """Fit the head on the train split; leaves model/ with TensorBoard events, history.csv and the best checkpoint.

    Bottlenecks are held in memory where both splits fit max_memory bytes. Raises DamagedShard for a damaged file.
    """
    folder, dim = bottlenecks.folder(run), bottlenecks.dim
    sources = {
        split: Source(shard_files(folder, split, examples.shards), examples.splits[split], dim, views)
        for split, views in (("train", bottlenecks.view_count), ("val", 1))
    }
    images = sources["train"].count
    epochs = epochs or choose_epochs(images, batch_size)
    memory = max_memory or default_memory()
    if sum(source.bytes for source in sources.values()) <= memory:
        held = load_vectors(sources["val"])
        train = train_from_memory(load_vectors(sources["train"]), epochs, batch_size, seed)
        val = evaluate_from_memory(held.values[:, 0], held.labels)
    else:
        train = train_from_shards(sources["train"], epochs, batch_size, seed, memory)
        val = evaluate_from_shards(sources["val"])
    with replacing_folder(run.model) as partial, naming_damage([*sources["train"].files, *sources["val"].files]):
        optimisation = Optimisation(epochs * train.per_pass, learning_rate, l2)
        classifier = HeadClassifier(partial, run.labels, len(examples.labels), seed, optimisation)
        history = classifier.fit(train, val, epochs, progress)
        v1.summary.FileWriterCache.clear()
        rows = [[epoch.epoch, *(f"{value:.6f}" for value in epoch[1:])] for epoch in history]
        write_csv(partial / run.history.name, Epoch._fields, rows)
    best = max(history, key=epoch_rank)
    return Head(Work(images, computed=images), best.epoch, best.val_accuracy, best.val_loss)


def load_classifier(examples: Examples, run: RunDir, seed: int) -> HeadClassifier:
    """Return the trained Estimator of a run, ready to evaluate, predict and export."""
    return HeadClassifier(run.model, run.labels, len(examples.labels), seed)
