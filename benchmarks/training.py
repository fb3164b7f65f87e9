"""The head's training against scikit-learn and Keras, on made-up bottlenecks of Caltech-256's size, in rounds.

python benchmarks/training.py --rounds 3

All three get the same arrays and classify the same test split; ours is the whole of HeadClassifier.fit: building the
graph, evaluating after each epoch, checkpoints and events. Keras trains the same layer with the same optimiser,
schedule, penalty, batches and epochs, validating after each, and keeps its last weights. scikit-learn minimises to its
default tolerance.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Callable, NamedTuple

import numpy as np
import tensorflow as tf
from rich.console import Console
from sklearn.linear_model import LogisticRegression

from components.model import Optimisation
from components.progress import Progress
from components.shards import BottleneckTable
from components.train import HeadClassifier, evaluation_input

IMAGES, DIM, CLASSES = 30_607, 2048, 257
SHARES = (0.6, 0.8)  # where train and val end
RANK, FACTORS, SEPARATION = 64, 256, 0.8  # dimensions that tell classes apart, and all that features share

LEARNING_RATE, L2 = 0.001, 0.005  # the config's defaults
C = 0.01


class Measured(NamedTuple):
    """One training: seconds, and the share of the test split that it then classifies rightly."""

    seconds: float
    accuracy: float


def make_splits(seed: int) -> list[BottleneckTable]:
    """Return train, val and test: classes apart in few directions, correlated noise, no negatives, as after a ReLU."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, CLASSES, IMAGES)
    means = np.pad(random.normal(size=(CLASSES, RANK)), ((0, 0), (0, FACTORS - RANK)))
    spread = 2 / np.sqrt(1 + np.arange(FACTORS) / 16)
    factors = SEPARATION * means[labels] + spread * random.normal(size=(IMAGES, FACTORS))
    basis = 0.5 * random.normal(size=(FACTORS, DIM)).astype(np.float32) / FACTORS**0.5
    own = 0.5 * random.standard_normal((IMAGES, DIM), np.float32)
    vectors = np.maximum(factors.astype(np.float32) @ basis + own - 0.5, 0)
    ends = [int(share * IMAGES) for share in SHARES]
    return [
        BottleneckTable([""] * len(part), [b""] * len(part), vectors[part], labels[part], [""] * len(part), [])
        for part in np.split(np.arange(IMAGES), ends)
    ]


def train_ours(splits: list[BottleneckTable], epochs: int, batch_size: int, seed: int) -> Measured:
    """Measure HeadClassifier.fit."""
    train, val, test = splits
    with tempfile.TemporaryDirectory() as folder:
        labels_file = Path(folder) / "labels.txt"
        labels_file.write_text("".join(f"class {number}\n" for number in range(CLASSES)))
        start = time.perf_counter()
        optimisation = Optimisation(epochs * -(-len(train.labels) // batch_size), LEARNING_RATE, L2)
        classifier = HeadClassifier(Path(folder) / "model", labels_file, CLASSES, seed, optimisation)
        classifier.fit(train, val, epochs, batch_size, seed, Progress(Console(quiet=True)))
        seconds = time.perf_counter() - start
        accuracy = classifier.evaluate(evaluation_input(test))["accuracy"]
        tf.compat.v1.summary.FileWriterCache.clear()
    return Measured(seconds, float(accuracy))


def train_scikit_learn(splits: list[BottleneckTable]) -> Measured:
    """Measure LogisticRegression on bottlenecks scaled as the head scales them."""
    train, _, test = splits
    start = time.perf_counter()
    model = LogisticRegression(C=C, max_iter=1000).fit(scale(train.vectors), train.labels)
    seconds = time.perf_counter() - start
    return Measured(seconds, float(model.score(scale(test.vectors), test.labels)))


def train_keras(splits: list[BottleneckTable], epochs: int, batch_size: int, seed: int) -> Measured:
    """Measure Keras' fit of one softmax layer."""
    train, val, test = splits
    tf.keras.utils.set_random_seed(seed)
    start = time.perf_counter()
    steps = epochs * -(-len(train.labels) // batch_size)
    # Keras' penalty is L2 times the sum of squares, tf.nn.l2_loss halves it.
    penalty = tf.keras.regularizers.L2(L2 / 2)
    layer = tf.keras.layers.Dense(CLASSES, "softmax", kernel_initializer="zeros", kernel_regularizer=penalty)
    model = tf.keras.Sequential([tf.keras.Input([DIM]), layer])
    rate = tf.keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps)
    model.compile(tf.keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", ["accuracy"])
    held_out = (scale(val.vectors), val.labels)
    model.fit(scale(train.vectors), train.labels, batch_size, epochs, verbose=0, validation_data=held_out)
    seconds = time.perf_counter() - start
    _, accuracy = model.evaluate(scale(test.vectors), test.labels, verbose=0)
    return Measured(seconds, float(accuracy))


def scale(vectors: np.ndarray) -> np.ndarray:
    """Return vectors at length sqrt(D), as in add_final_training_ops."""
    return vectors * (DIM**0.5 / np.linalg.norm(vectors, axis=1, keepdims=True))


def main() -> None:
    """Print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    splits = make_splits(options.seed)
    contestants: dict[str, Callable[[], Measured]] = {
        "topgraft": lambda: train_ours(splits, options.epochs, options.batch_size, options.seed),
        "keras": lambda: train_keras(splits, options.epochs, options.batch_size, options.seed),
        "scikit-learn": lambda: train_scikit_learn(splits),
    }
    measured: dict[str, list[Measured]] = {name: [] for name in contestants}
    for _ in range(options.rounds):
        for name, train in contestants.items():
            measured[name].append(train())
    print(f"{'':14}{'median s':>10}{'min s':>10}{'max s':>10}{'accuracy':>10}")
    figures = {}
    for name, runs in measured.items():
        seconds = [run.seconds for run in runs]
        median, accuracy = statistics.median(seconds), statistics.median(run.accuracy for run in runs)
        print(f"{name:14}{median:10.1f}{min(seconds):10.1f}{max(seconds):10.1f}{accuracy:10.4f}")
        figures[name] = {"seconds": [round(value, 2) for value in seconds], "accuracy": round(accuracy, 4)}
    content = {"epochs": options.epochs, "batch_size": options.batch_size, "rounds": options.rounds, **figures}
    Path("benchmarks/training.json").write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
