"""What class weights give where training images are ten to one, on the bottlenecks of a finished run.

    python benchmarks/imbalance.py runs/caltech101 [--many 20 --few 2 --draws 5]

In each draw a random half of the classes keeps many images of the run's train split, the other half few; the head is
trained as the config's defaults say, without and with class_weight: balanced, and measured on the test split.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import tensorflow as tf
from rich.console import Console
from training import read_splits

from components.features import INDEX
from components.run_dir import RunDir
from components.shards.bottlenecks import Vectors
from components.terminal.progress import Progress
from components.train.estimator import HeadClassifier
from components.train.inputs import evaluate_from_memory, train_from_memory
from components.train.settings import BALANCED, Architecture, Recipe, resolve_architecture, settle_recipe
from components.train.training_plan import choose_epochs, plan_training

WEIGHTS = (None, BALANCED)


def draw_imbalanced(train: Vectors, many: int, few: int, seed: int) -> tuple[Vectors, np.ndarray]:
    """Return training images of which half the classes have many and the others few, and which classes have few."""
    random = np.random.default_rng(seed)
    rare = random.permutation(int(train.labels.max()) + 1)
    rare = rare[: len(rare) // 2]
    rows = []
    for label in np.unique(train.labels):
        of_class = random.permutation(np.flatnonzero(train.labels == label))
        rows.append(of_class[: few if label in rare else many])
    taken = np.concatenate(rows)
    return Vectors(train.values[taken], train.labels[taken]), rare


def measure(run: RunDir, train: Vectors, test: Vectors, rare: np.ndarray, weight: str | None, seed: int) -> list[float]:
    """Train once; return accuracy, the mean of the classes' accuracies, and that of the classes with few images."""
    labels = run.labels.read_text(encoding="utf-8").split("\n")[:-1]
    architecture = resolve_architecture(Architecture(), len(labels), train.values.shape[-1])
    recipe, _ = settle_recipe(Recipe(class_weight=weight), architecture)
    plan = plan_training(train, None, labels, run.labels, architecture, recipe, {})
    epochs = choose_epochs(len(train.labels), recipe)
    with tempfile.TemporaryDirectory() as folder:
        classifier = HeadClassifier(Path(folder), plan.head, seed)
        batches = train_from_memory(train, epochs, recipe.batch_size, seed)
        classifier.fit(batches, None, epochs, Progress(Console(quiet=True)), plan.start)
        judged = evaluate_from_memory(test.values[:, 0], test.labels)
        predicted = np.array([row[INDEX] for row in classifier.predict(judged.input_fn, [INDEX])])
        tf.compat.v1.summary.FileWriterCache.clear()
    hits = predicted == test.labels
    of_class = {label: hits[test.labels == label].mean() for label in np.unique(test.labels)}
    few = [accuracy for label, accuracy in of_class.items() if label in rare]
    return [hits.mean(), float(np.mean(list(of_class.values()))), float(np.mean(few))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--many", type=int, default=20)
    parser.add_argument("--few", type=int, default=2)
    parser.add_argument("--draws", type=int, default=5)
    arguments = parser.parse_args()
    run = RunDir(arguments.run)
    whole, _, test = read_splits(run)
    rows: dict[str | None, list[list[float]]] = {weight: [] for weight in WEIGHTS}
    for seed in range(arguments.draws):
        train, rare = draw_imbalanced(whole, arguments.many, arguments.few, seed)
        for weight in WEIGHTS:
            rows[weight].append(measure(run, train, test, rare, weight, seed))
    print("class_weight  accuracy  mean of classes  mean of classes with few images (over draws, in %)")
    for weight, measured in rows.items():
        mean, deviation = 100 * np.mean(measured, 0), 100 * np.std(measured, 0)
        print(
            f"{weight or 'none':12}",
            *(f"{value:6.2f} +- {error:.2f}" for value, error in zip(mean, deviation, strict=True)),
        )


if __name__ == "__main__":
    main()
