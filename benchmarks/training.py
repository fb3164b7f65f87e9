"""The head's training against scikit-learn and Keras, on the bottlenecks of a finished run, in rounds.

    python benchmarks/training.py runs/caltech101 [--images 30607 --classes 257] [--rounds 3]

All three get the same arrays and classify the same test split. Ours starts from zeros, with the penalty L2. With
--images and --classes a larger set is drawn from the run's: new classes lie between two of its own, new images are
their class's mean and a mix of two images' distances from theirs. Ours is the whole of HeadClassifier.fit with the
config's defaults: building the graph, evaluating after each epoch, checkpoints and events. Keras trains the same layer
with the same optimiser, schedule, penalty, batches and epochs, validating after each, and keeps its last weights.
scikit-learn minimises to its default tolerance, with the C that is best on the validation split, which is found before
the clock starts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from rich.console import Console
from sklearn.linear_model import LogisticRegression

from components.features import SPLITS
from components.run_dir import STAGES, RunDir
from components.shards.bottlenecks import Source, Vectors, load_vectors
from components.shards.records import shard_files
from components.terminal.progress import Progress
from components.train.estimator import HeadClassifier
from components.train.inputs import evaluate_from_memory, train_from_memory
from components.train.model import HeadParams
from components.train.settings import DEFAULT_RATE, Architecture, Recipe, settle_recipe
from components.train.training_plan import choose_epochs, make_optimization

SHARES = (0.6, 0.8)  # where train and val end
L2 = 0.001
STRENGTHS = (0.001, 0.01, 0.1, 1.0)


class Measured(NamedTuple):
    """One training: seconds, and the share of the test split that it then classifies rightly."""

    seconds: float
    accuracy: float


def draw_splits(splits: list[Vectors], images: int, classes: int, seed: int) -> list[Vectors]:
    """Return train, val and test of a larger set that is like another one."""
    random = np.random.default_rng(seed)
    vectors = np.concatenate([part.values[:, 0] for part in splits])
    labels = np.concatenate([part.labels for part in splits])
    means = np.stack([vectors[labels == label].mean(0) for label in range(int(labels.max()) + 1)])
    distances = vectors - means[labels]
    first, second = random.integers(0, len(means), (2, classes))
    share = random.uniform(0.3, 0.7, (classes, 1))
    new_means = share * means[first] + (1 - share) * means[second]
    new_labels = random.integers(0, classes, images)
    first, second = random.integers(0, len(vectors), (2, images))
    angle = random.uniform(0, np.pi / 2, (images, 1))
    noise = np.cos(angle) * distances[first] + np.sin(angle) * distances[second]
    values = np.maximum(new_means[new_labels] + noise, 0).astype(np.float32)  # no negatives, as after a ReLU
    ends = [int(share * images) for share in SHARES]
    return [Vectors(values[part, None], new_labels[part]) for part in np.split(np.arange(images), ends)]


def read_splits(run: RunDir) -> list[Vectors]:
    """Return the bottlenecks of train, val and test of a finished run."""
    outcomes = {stage: json.loads((run.stages / f"{stage}.json").read_text())["outcome"] for stage in STAGES[:3]}
    examples, extract = outcomes["ingest"], outcomes["extract"]
    folder = run.bottlenecks(extract["backbone_id"], extract["engine"], extract["views"])
    return [
        load_vectors(
            Source(shard_files(folder, split, examples["shards"]), examples["splits"][split], extract["dim"], 1)
        )
        for split in SPLITS
    ]


def train_ours(splits: list[Vectors], recipe: Recipe, seed: int) -> Measured:
    """Measure HeadClassifier.fit."""
    train, val, test = splits
    classes = int(train.labels.max()) + 1
    with tempfile.TemporaryDirectory() as folder:
        labels_file = Path(folder) / "labels.txt"
        labels_file.write_text("".join(f"class {number}\n" for number in range(classes)))
        start = time.perf_counter()
        epochs = choose_epochs(len(train.labels), recipe)
        batches = train_from_memory(train, epochs, recipe.batch_size, seed)
        optimization = make_optimization(recipe, len(train.labels), None)
        head = HeadParams(classes, str(labels_file), Architecture(normalize="l2"), optimization)
        classifier = HeadClassifier(Path(folder) / "model", head, seed)
        held_out = evaluate_from_memory(val.values[:, 0], val.labels)
        classifier.fit(batches, held_out, epochs, Progress(Console(quiet=True)))
        seconds = time.perf_counter() - start
        accuracy = classifier.evaluate(evaluate_from_memory(test.values[:, 0], test.labels).input_fn)["accuracy"]
        tf.compat.v1.summary.FileWriterCache.clear()
    return Measured(seconds, float(accuracy))


def choose_strength(splits: list[Vectors]) -> float:
    """Return the C with which scikit-learn is best on the validation split."""
    train, val, _ = splits

    def score(strength: float) -> float:
        model = LogisticRegression(C=strength, max_iter=1000).fit(scale(train.values), train.labels)
        return float(model.score(scale(val.values), val.labels))

    return max(STRENGTHS, key=score)


def train_scikit_learn(splits: list[Vectors], strength: float) -> Measured:
    """Measure LogisticRegression on bottlenecks scaled as the head scales them."""
    train, _, test = splits
    start = time.perf_counter()
    model = LogisticRegression(C=strength, max_iter=1000).fit(scale(train.values), train.labels)
    seconds = time.perf_counter() - start
    return Measured(seconds, float(model.score(scale(test.values), test.labels)))


def train_keras(splits: list[Vectors], recipe: Recipe, seed: int) -> Measured:
    """Measure Keras' fit of one softmax layer."""
    train, val, test = splits
    tf.keras.utils.set_random_seed(seed)
    start = time.perf_counter()
    epochs, batch_size = choose_epochs(len(train.labels), recipe), recipe.batch_size
    steps = epochs * -(-len(train.labels) // batch_size)
    # Keras' penalty is L2 times the sum of squares, tf.nn.l2_loss halves it.
    penalty = tf.keras.regularizers.L2(L2 / 2)
    classes = int(train.labels.max()) + 1
    layer = tf.keras.layers.Dense(classes, "softmax", kernel_initializer="zeros", kernel_regularizer=penalty)
    model = tf.keras.Sequential([tf.keras.Input([train.values.shape[-1]]), layer])
    rate = tf.keras.optimizers.schedules.CosineDecay(DEFAULT_RATE, steps)
    model.compile(tf.keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", ["accuracy"])
    held_out = (scale(val.values), val.labels)
    model.fit(scale(train.values), train.labels, batch_size, epochs, verbose=0, validation_data=held_out)
    seconds = time.perf_counter() - start
    _, accuracy = model.evaluate(scale(test.values), test.labels, verbose=0)
    return Measured(seconds, float(accuracy))


def scale(values: np.ndarray) -> np.ndarray:
    """Return vectors [N, 1, D] as [N, D] at length sqrt(D), as in add_final_training_ops."""
    vectors = values[:, 0]
    return vectors * (vectors.shape[1] ** 0.5 / np.linalg.norm(vectors, axis=1, keepdims=True))


def main() -> None:
    """Print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="a run directory")
    parser.add_argument("--images", type=int)
    parser.add_argument("--classes", type=int, default=257)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    splits = read_splits(RunDir(options.run))
    if options.images:
        splits = draw_splits(splits, options.images, options.classes, options.seed)
    recipe, _ = settle_recipe(Recipe(l2=L2), Architecture())
    strength = choose_strength(splits)
    print(
        f"train {splits[0].values.shape}, {int(splits[0].labels.max()) + 1} classes; scikit-learn's C is {strength:g}"
    )
    contestants: dict[str, Callable[[], Measured]] = {
        "topgraft": lambda: train_ours(splits, recipe, options.seed),
        "keras": lambda: train_keras(splits, recipe, options.seed),
        "scikit-learn": lambda: train_scikit_learn(splits, strength),
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
    content = {"strength": strength, "settings": asdict(recipe), **figures}
    Path("benchmarks/training.json").write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
