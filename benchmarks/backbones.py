"""Images a second of several backbones, from encoded images in memory to bottlenecks, interleaved in one run.

python benchmarks/backbones.py data/caltech101 efficientnet_lite0 '{keras: InceptionV3, weights: inception.h5}'
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import yaml
from rich.console import Console

from components.backbones.prepare import BackboneSession, prepare_backbone
from components.backbones.spec import parse_backbone
from components.data.listing import list_images
from components.terminal.progress import Progress

BATCH_SIZE = 32
BATCHES = 4
ROUNDS = 5


def main() -> None:
    """Print and write the median and the spread of each backbone's images a second."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", type=Path)
    parser.add_argument("backbones", nargs="+")
    options = parser.parse_args()
    listing = list_images(str(options.images))
    step = len(listing.files) // (BATCH_SIZE * BATCHES)
    encoded = [Path(file.path).read_bytes() for file in listing.files[:: max(step, 1)]]
    batches = [encoded[start * BATCH_SIZE : (start + 1) * BATCH_SIZE] for start in range(BATCHES)]
    rates: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        sessions = {}
        for text in options.backbones:
            specs = parse_backbone(yaml.safe_load(text))
            backbone = prepare_backbone(specs, Path(folder), Progress(Console(quiet=True)))
            sessions[backbone.name] = BackboneSession(Path(folder) / backbone.id)
        for number in range(ROUNDS + 1):
            for name, session in sessions.items():
                start = time.perf_counter()
                for batch in batches:
                    session.compute_bottlenecks(batch)
                if number:  # the first round warms up
                    images = sum(map(len, batches))
                    rates.setdefault(name, []).append(images / (time.perf_counter() - start))
    figures = {name: [round(f(values), 1) for f in (min, statistics.median, max)] for name, values in rates.items()}
    print(f"{'images a second':40}{'min':>8}{'median':>8}{'max':>8}")
    for name, values in figures.items():
        print(f"{name:40}" + "".join(f"{value:8}" for value in values))
    Path("benchmarks/backbones.json").write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
