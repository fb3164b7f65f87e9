"""How many planted wrong labels the audit finds in the bottlenecks of a finished run, for some seeds.

python benchmarks/label_noise.py runs/caltech101
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

from components.audit.label_errors import find_checked, find_label_issues, predict_left_out
from components.audit.near_duplicates import find_near_duplicates
from components.audit.similarity import to_embeddings
from components.features import SPLITS
from components.run_dir import RunDir
from components.shards.bottlenecks import BottleneckTable, read_bottlenecks
from components.shards.records import shard_files

COLUMNS = ("seed", "planted", "in first", "recall", "precision", "named", "named recall", "named precision", "seconds")


def read_splits(run: RunDir) -> dict[str, BottleneckTable]:
    """Return the bottlenecks of each split of a finished run."""
    backbone = json.loads(run.record.read_text())["backbone"]
    shards = json.loads((run.stages / "ingest.json").read_text())["outcome"]["shards"]
    folder = run.bottlenecks(backbone["id"], backbone["engine"], backbone["views"])
    return {split: read_bottlenecks(shard_files(folder, split, shards), backbone["dim"]) for split in SPLITS}


def swap_labels(labels: np.ndarray, rows: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return labels int64[N] of which a share of some rows is another, random class', and bool[N] saying which."""
    random = np.random.default_rng(seed)
    swapped, classes = random.choice(rows, round(share * len(rows)), replace=False), labels.max() + 1
    noisy, planted = labels.copy(), np.zeros(len(labels), bool)
    noisy[swapped] = (noisy[swapped] + random.integers(1, classes, len(swapped))) % classes
    planted[swapped] = True
    return noisy, planted


def main() -> None:
    """Print and write the figures: of the training images ranked first, as many as planted, and of those named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="a finished run directory")
    parser.add_argument("--share", type=float, default=0.05, help="of the training labels to be swapped")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--near-duplicate", type=float, default=0.92)
    options = parser.parse_args()
    tables = read_splits(RunDir(options.run))
    labels = np.concatenate([table.labels for table in tables.values()])
    train = np.arange(len(tables["train"].labels))  # the first split
    embeddings = to_embeddings(np.concatenate([table.vectors for table in tables.values()]))
    sums = [sha256 for table in tables.values() for sha256 in table.sha256]
    _, copies = np.unique(np.array(sums, dtype=object), return_inverse=True)
    splits = np.repeat(np.arange(len(tables)), [len(table.labels) for table in tables.values()])

    rows = []
    for seed in (None, *range(options.seeds)):
        noisy, planted = swap_labels(labels, train, options.share, seed) if seed is not None else (labels, labels < 0)
        start = time.perf_counter()
        groups = find_near_duplicates(embeddings, noisy, splits, copies, options.near_duplicate).groups
        issues = find_label_issues(embeddings, noisy, groups)
        seconds = time.perf_counter() - start
        scores = predict_left_out(embeddings, noisy, groups, find_checked(noisy, groups))
        margins = scores.max(1) - scores[np.arange(len(noisy)), noisy]
        first = train[np.argsort(-margins[train], kind="stable")][: round(options.share * len(train))]
        named = np.array([issue.row for issue in issues if issue.row < len(train)], int)
        found, count = [int(planted[first].sum()), int(planted[named].sum())], int(planted.sum())
        shares = (
            [found[0] / count, found[0] / len(first), found[1] / count, found[1] / len(named)] if count else [0] * 4
        )
        row = (seed, count, len(first), *shares[:2], len(named), *shares[2:], seconds)
        rows.append(
            {
                key: round(value, 3) if isinstance(value, float) else value
                for key, value in zip(COLUMNS, row, strict=True)
            }
        )
    print("".join(f"{column:>17}" for column in COLUMNS))
    for row in rows:
        print("".join(f"{'as it is' if value is None else value:>17}" for value in row.values()))
    Path("benchmarks/label_noise.json").write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
