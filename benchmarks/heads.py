"""The default head against others on the same bottlenecks of efficientnet_lite0, in paired draws.

    python benchmarks/heads.py --cache heads --data caltech101=data/caltech101 --data flowers=data/flowers_sample \\
        digits digits/10 flowers caltech101 caltech101:1/30 [--draws 5]

A set is NAME[:SEED][/IMAGES]: with SEED, only 20 classes drawn with it; with IMAGES, so many of each class to train and
validate on (three to one) and all others to test. Without IMAGES each class is split 60/20/20. The cache holds the runs
with the bottlenecks. `before` is the default until version 0.5.0; it and all down to `default` are trained as
train_head does. The others are scikit-learn's on train and val together, on vectors of length sqrt(D).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegressionCV
from sklearn.neighbors import NearestCentroid
from training import read_splits

from components.features import INDEX
from components.run_dir import REFIT, RunDir
from components.shards.bottlenecks import Vectors
from components.terminal.progress import Progress
from components.train.estimator import HeadClassifier
from components.train.inputs import evaluate_from_memory
from components.train.model import HeadParams
from components.train.normalization import normalize_lengths
from components.train.settings import Architecture, Recipe, resolve_architecture, settle_recipe
from components.train.train import Splits, fit_head
from components.train.training_plan import plan_training
from pipeline.cli import main as topgraft

CLASSES_DRAWN = 20
# Inverse penalties of scikit-learn.
STRENGTHS = np.logspace(-4, 1, 6)

HEADS = {
    "before": (Architecture(normalize="l2"), Recipe(l2=0.001, refit=False)),
    "whiten": (Architecture(normalize="whiten"), Recipe(l2=0.001, refit=False)),
    "auto": (Architecture(normalize="l2"), Recipe(refit=False)),
    "refit": (Architecture(normalize="l2"), Recipe(l2=0.001)),
    "auto + refit": (Architecture(normalize="l2"), Recipe()),
    "whiten + auto": (Architecture(normalize="whiten"), Recipe(refit=False)),
    "default": (Architecture(), Recipe()),
}


def load_bottlenecks(name: str, place: str | None, cache: Path, backbone: str) -> Vectors:
    """Return the bottlenecks of a data set, of a run in the cache that is made on the first use."""
    run, config = RunDir(cache / name), cache / f"{name}.json"
    cache.mkdir(parents=True, exist_ok=True)
    config.write_text(
        json.dumps(
            {"name": name, "data": {"path": place} if place else {"source": name}, "backbone": json.loads(backbone)}
        )
    )
    for stage in ("ingest", "validate", "extract"):
        if not (run.stages / f"{stage}.json").exists():
            topgraft(["run", "--quiet", str(config), "--only", stage, f"output_dir={run.root}"])
    return Vectors(*map(np.concatenate, zip(*read_splits(run), strict=True)))


def draw_splits(vectors: Vectors, classes: int | None, images: int | None, seed: int) -> list[Vectors]:
    """Return train, val and test as a draw gives them; classes is the seed by which classes are drawn."""
    names = np.arange(vectors.labels.max() + 1)
    if classes is not None:
        names = np.sort(np.random.default_rng(classes).choice(names, CLASSES_DRAWN, replace=False))
    random, rows = np.random.default_rng(seed), []
    for name in names:
        of_class = random.permutation(np.flatnonzero(vectors.labels == name))
        known = min(images, len(of_class) - 1) if images else round(0.8 * len(of_class))
        held_out = max(round(known / 4), 1) if images else round(0.2 * len(of_class))
        rows.append(np.split(of_class, [known - held_out, known]))
    parts = [vectors.select(np.concatenate(part)) for part in zip(*rows, strict=True)]
    return [Vectors(part.values, np.searchsorted(names, part.labels)) for part in parts]


def predict_ours(train: Vectors, val: Vectors, test: Vectors, architecture: Architecture, recipe: Recipe) -> np.ndarray:
    """Train a head as train_head does and return the classes that it predicts for the test images."""
    names = [f"class {number}" for number in range(train.labels.max() + 1)]
    architecture = resolve_architecture(architecture, len(names), train.values.shape[-1])
    recipe, _ = settle_recipe(recipe, architecture)
    both = Vectors(*map(np.concatenate, zip(train, val, strict=True)))
    with tempfile.TemporaryDirectory() as folder:
        labels_file, model = Path(folder, "labels.txt"), Path(folder, "model")
        labels_file.write_text("\n".join([*names, ""]))
        plan = plan_training(train, val, names, labels_file, architecture, recipe, {})
        fit_head(model, Splits(train, val, both), plan, recipe, Progress(Console(quiet=True)))
        head = HeadParams(len(names), str(labels_file), architecture)
        classifier = HeadClassifier(model / REFIT if recipe.refit else model, head, 0)
        answers = classifier.predict(evaluate_from_memory(test.values[:, 0], test.labels).input_fn, [INDEX])
        return np.array([answer[INDEX] for answer in answers])


def make_others(folds: int) -> Mapping[str, Callable[[], Any]]:
    """Return what the heads are compared with, by name."""
    return {
        "LogisticRegressionCV": lambda: LogisticRegressionCV(Cs=STRENGTHS, cv=folds, max_iter=500),
        "LDA": lambda: LinearDiscriminantAnalysis("lsqr", shrinkage="auto"),
        "nearest mean": NearestCentroid,
    }


def measure_draw(train: Vectors, val: Vectors, test: Vectors, heads: Sequence[str]) -> dict[str, float]:
    """Return the accuracy of some HEADS and of the others on the test images."""
    found = {name: predict_ours(train, val, test, *HEADS[name]) for name in heads}
    both, labels = (np.concatenate(pair) for pair in zip(train, val, strict=True))
    for name, make in make_others(min(3, np.bincount(labels).min())).items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of iterations and deprecations
            model = make().fit(normalize_lengths(both[:, 0]), labels)
        found[name] = model.predict(normalize_lengths(test.values[:, 0]))
    return {name: float((predicted == test.labels).mean()) for name, predicted in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+")
    parser.add_argument("--data", action="append", default=[], help="NAME=FOLDER")
    parser.add_argument("--cache", type=Path, required=True, help="a folder outside the project")
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--heads", nargs="+", choices=HEADS, default=list(HEADS))
    parser.add_argument("--backbone", default='"efficientnet_lite0"', help="JSON; a cache holds one")
    options = parser.parse_args()
    places, output = dict(text.split("=", 1) for text in options.data), options.cache / "heads.json"
    print("accuracy of default in %, and by how many points it is above (paired over draws, with standard errors)")
    for title in options.sets:
        name, _, images = title.partition("/")
        name, _, classes = name.partition(":")
        vectors = load_bottlenecks(name, places.get(name), options.cache, options.backbone)
        rows = []
        for seed in range(options.draws):
            splits = draw_splits(vectors, int(classes) if classes else None, int(images) if images else None, seed)
            rows.append(measure_draw(*splits, options.heads))
        counts = "/".join(str(len(part.labels)) for part in splits)
        print(f"{title} ({counts} images): {100 * np.mean([row['default'] for row in rows]):.2f}")
        for head in rows[0]:
            ahead = 100 * np.array([row["default"] - row[head] for row in rows])
            error = ahead.std(ddof=1) / len(ahead) ** 0.5 if len(ahead) > 1 else np.nan
            print(f"    {head:22}{ahead.mean():+6.2f} +- {error:.2f}", flush=True)
        known = json.loads(output.read_text()) if output.exists() else {}
        output.write_text(json.dumps({**known, title: rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
