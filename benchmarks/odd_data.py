"""Made-up data sets of odd names, sizes, modes and formats, each through the whole pipeline under a random config.

    python benchmarks/odd_data.py [--sets 30] [--seed 0]

Prints a line a data set and writes benchmarks/odd_data.json. Each is run, predicted by the plain path and as a Beam
job, whose files must be the same, and run again, which must have nothing to do. A refusal in one sentence, exit status
2, is counted by itself; anything else that a run or a prediction ends with is a fault, and its folder is kept.
"""

from __future__ import annotations

import argparse
import collections
import io
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from large_report import write_network
from PIL import Image

TOPGRAFT = str(Path(sys.executable).with_name("topgraft"))
# Formulas, numbers, words of yaml, json and this program, templates, markup, spaces, scripts, and as long as can be.
NAMES = (
    *("cat", "dog", "A", "a", "NaN", "None", "null", "true", "123", "1e5", ".5", "-5", "+x", "=1+1", "@x", "train"),
    *("class", "label", "index", "all", "image", " lead", "trail ", "a,b", 'q"uo"te', "it's", "a\\b", "tab\there"),
    *("#1", "<b>", "&amp;", "{{7*7}}", "%s", "$HOME", "~", "*", "?", "[x]", "{}", "日本語", "😀", "שלום", "\u200bzero"),
    *("e\u0301", "x" * 200),
)
STEMS = ("img", "img", "img", "=img", "i mg", "ï", "\udcff", "n\nl", "'q", "#")
FORMATS = {
    "jpg": ("JPEG", ("RGB", "L", "CMYK")),
    "png": ("PNG", ("RGB", "L", "P", "RGBA", "1", "LA")),
    "gif": ("GIF", ("P",)),
    "bmp": ("BMP", ("RGB", "L")),
    "webp": ("WEBP", ("RGB", "RGBA")),
    "tif": ("TIFF", ("RGB", "L")),
}
HEADS: tuple[Any, ...] = (
    *("linear", "linear", [{"units": 8, "activation": "relu", "dropout": 0.3}], {"output": "softmax"}),
    *({"normalize": "standardize"}, {"normalize": "whiten"}, {"normalize": "none"}, {"output": "sigmoid"}),
)


def paint(hue: np.ndarray, suffix: str, chance: random.Random, noise: np.random.Generator) -> bytes:
    """Return an encoded image of some size and mode in a hue."""
    size = noise.integers(1, 50, 2) if chance.random() < 0.9 else chance.choice([(1, 1), (1, 40), (300, 2)])
    pixels = noise.normal(80, 25, 3) + hue * noise.uniform(0.2, 1) + noise.normal(0, 30, (*size, 3))
    kind, modes = FORMATS[suffix]
    buffer = io.BytesIO()
    settings = {"progressive": chance.random() < 0.5} if kind == "JPEG" else {}
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    image.convert(chance.choice(modes)).save(buffer, kind, **settings)
    return buffer.getvalue()


def write_images(folder: Path, chance: random.Random, noise: np.random.Generator) -> None:
    """Write classes of a few images, some of them damaged, empty, or copies of others."""
    contents = [b""]
    for name in chance.sample(NAMES, chance.choice([2, 2, 3, 5, 12])):
        hue = noise.uniform(-60, 160, 3)
        for number in range(chance.choice([3, 4, 5, 8, 15, 40])):
            suffix = chance.choice([*FORMATS] if chance.random() < 0.3 else ["jpg", "png"])
            path = folder / name / chance.choice(["", "", "s 1", chance.choice(NAMES), "\udcff"])
            path.mkdir(parents=True, exist_ok=True)
            content = paint(hue, suffix, chance, noise)
            drawn = chance.random()
            content = content[: len(content) // 2] if drawn < 0.03 else b"" if drawn < 0.05 else content
            content = chance.choice(contents) if drawn > 0.97 else content
            contents.append(content)
            (path / f"{chance.choice(STEMS)}{number}.{suffix}").write_bytes(content)


def draw_config(place: Path, chance: random.Random) -> dict[str, Any]:
    """Return a config for the images of a folder."""
    head = chance.choice(HEADS)
    train: dict[str, Any] = {"epochs": chance.choice([1, 3]), "batch_size": chance.choice([1, 7, 100])}
    some: dict[str, Any] = {"class_weight": "balanced", "label_smoothing": 0.1, "patience": 1}
    train.update((key, value) for key, value in some.items() if chance.random() < 0.25)
    if not isinstance(head, list) and chance.random() < 0.3:
        train["l2"] = "auto"
    data: dict[str, Any] = {"path": str(place / "images"), "max_reject_share": 0.5}
    parts: dict[str, Any] = {"duplicates": "keep", "group_pattern": r"(.)\.\w+$"}
    data.update((key, value) for key, value in parts.items() if chance.random() < 0.2)
    config = {
        "name": chance.choice(["toy", "n ame", "ünï", "x" * 80]),
        "output_dir": str(place / "run"),
        "data": data,
        "backbone": {
            "frozen_graph": str(place / "toy.pb"),
            "input": "input",
            "bottleneck": "features",
            "scale": [-1, 1],
        },
        "head": head,
        "train": train,
        "validation": {"on_anomaly": "warn"},
        "beam": {"shards": chance.choice([1, 2, 5])},
    }
    sections: dict[str, Any] = {
        "abstain": {"precision": 0.8},
        "augment": {"flip": True, "crops": chance.choice([0, 1]), "average": chance.random() < 0.5},
        "evaluate": {"thresholds": {"accuracy": 0.3}, "max_accuracy_drop": 0.2},
    }
    config.update((key, value) for key, value in sections.items() if chance.random() < 0.4)
    return config


def call(*words: str | Path) -> tuple[int, str]:
    """Return status and last line of stderr of a command."""
    result = subprocess.run([TOPGRAFT, *map(str, words)], capture_output=True, text=True, errors="backslashreplace")
    return result.returncode, (result.stderr.strip().splitlines() or [""])[-1]


def judge(place: Path) -> tuple[str, str]:
    """Run all over one data set; return done, refused or fault, and the words for it."""
    config = place / "odd.yaml"
    status, said = call("run", config)
    if status == 2 and said.startswith("topgraft: "):
        return "refused", said
    if status not in (0, 3):
        return "fault", f"run ended with {status}: {said}"
    export = max((place / "run" / "export").iterdir())
    for name, words in (("plain.csv", []), ("job.csv", ["--beam", "shards=2"])):
        ended, said = call("predict", export, place / "images", "--output", place / name, *words)
        if ended:
            return "fault", f"predict to {name} ended with {ended}: {said}"
    if (place / "plain.csv").read_bytes() != (place / "job.csv").read_bytes():
        return "fault", "the job's predictions are not those of the plain path"
    if call("run", config)[0] != status:
        return "fault", "the second run ended otherwise than the first"
    stages = json.loads((place / "run" / "run.json").read_text())["stages"]
    again = [name for name, stage in stages.items() if not stage["skipped"]]
    return ("fault", f"the second run did {again} again") if again else ("done", "")


def main() -> None:
    """Print and write what came of each data set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    found: dict[int, tuple[str, str]] = {}
    os.environ.setdefault("TOPGRAFT_CACHE", tempfile.mkdtemp(prefix="topgraft-"))
    for seed in range(options.seed, options.seed + options.sets):
        place = Path(tempfile.mkdtemp(prefix=f"odd-{seed}-"))
        chance, noise = random.Random(seed), np.random.default_rng(seed)
        write_network(place / "toy.pb")
        write_images(place / "images", chance, noise)
        (place / "odd.yaml").write_text(yaml.safe_dump(draw_config(place, chance), allow_unicode=True))
        started = time.perf_counter()
        found[seed] = kind, words = judge(place)
        if kind == "fault":
            words += f" (kept in {place})"
        else:
            shutil.rmtree(place)
        print(f"{seed:4} {time.perf_counter() - started:5.0f} s  {kind} {words}", flush=True)
        Path(__file__).with_suffix(".json").write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n")
    counts = collections.Counter(kind for kind, _ in found.values())
    print(", ".join(f"{count} {kind}" for kind, count in counts.most_common()))


if __name__ == "__main__":
    main()
