"""Extraction from files on disk to bottleneck shards on disk, beside its limit, Keras and the tutorials' loop.

    python benchmarks/extraction.py data/caltech101 [--backbone efficientnet_lite0] [--images 2000] [--rounds 3]

Prints a table and writes benchmarks/extraction.json. The limit of an engine is the time that decoding and resizing
alone and its forward pass alone take, each on data in memory and on all cores. Keras is image_dataset_from_directory
and predict with the same network; the tutorials' loop is one image a session.run, over a tenth of the images.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable

import yaml
from apache_beam.options.pipeline_options import PipelineOptions
from rich.console import Console

import components  # sets TensorFlow's environment before it is imported
from components import features
from components.backbone import BackboneSession, prepare_backbone
from components.bottlenecks import BATCH_SIZE, extract_bottlenecks
from components.catalog import parse_backbone
from components.engines import BATCHES_IN_FLIGHT, Closeness, list_engines, load_engine
from components.features import RunDir
from components.listing import Listing, list_images
from components.progress import Progress
from components.sharding import choose_shards
from components.split import SplitPlan

SHARES = {"train": 0.6, "val": 0.2, "test": 0.2}


def run_stages(listing: Listing, backbone: Any, engine: str) -> float:
    """Return the seconds of ingest and extract into an empty run directory."""
    options, progress = PipelineOptions(["--runner", "FnApiRunner"]), Progress(Console(quiet=True))
    rules = components.ingest.IngestRules(SplitPlan(SHARES, None, 0))
    with tempfile.TemporaryDirectory() as folder:
        run = RunDir(Path(folder))
        prepare_backbone(parse_backbone(backbone), run.backbones, progress)  # freezing is once a machine, not an image
        started = time.perf_counter()
        shards = choose_shards(len(listing.files))
        examples = components.ingest.ingest_images(listing, run, shards, rules, options, progress)
        extract_bottlenecks(examples, parse_backbone(backbone), engine, Closeness(0.999, 0.995), run, options, progress)
        return time.perf_counter() - started


def time_side_by_side(compute: Callable[[Any], Any], batches: Iterable[Any]) -> float:
    """Return the seconds that all batches take, as many at once as in extraction."""
    started = time.perf_counter()
    with ThreadPoolExecutor(BATCHES_IN_FLIGHT) as pool:
        for _ in pool.map(compute, batches):
            pass
    return time.perf_counter() - started


def measure_limit(session: BackboneSession, engine: Any, encoded: list[list[bytes]]) -> float:
    """Return the seconds of decoding alone and of the forward pass alone, added."""

    def decode(batch: list[bytes]) -> Any:
        return session.run(features.PIXELS, features.IMAGE_BYTES, batch)

    seconds = 0.0
    for window in (encoded[start : start + 10] for start in range(0, len(encoded), 10)):  # pixels are large
        seconds += time_side_by_side(decode, window)
        seconds += time_side_by_side(engine.compute_from_pixels, [decode(batch) for batch in window])
    return seconds


def build_keras(backbone: str, size: int) -> Any:
    """Return the network of the same shape in Keras, weights random."""
    import tensorflow as tf

    if backbone == "InceptionV3":
        return tf.keras.applications.InceptionV3(include_top=False, weights=None, pooling="avg")
    layers = tf.keras.layers
    lite = components.catalog.EMBEDDED[backbone]
    weights = components.efficientnet_lite.load_weights(lite)

    def convolve(x: Any, name: str, norm: str, stride: int = 1) -> Any:
        out, _, kernel, _ = weights[f"{name}.weight"].shape
        if "depthwise" in name:
            x = layers.DepthwiseConv2D(kernel, stride, "same", use_bias=False)(x)
        else:
            x = layers.Conv2D(out, kernel, stride, "same", use_bias=False)(x)
        return layers.BatchNormalization()(x)

    pixels = layers.Input([size, size, 3])
    x = layers.ReLU(6.0)(convolve(layers.Rescaling(1 / 128, -127 / 128)(pixels), "_conv_stem", "_bn0", 2))
    for number, stride in enumerate(components.efficientnet_lite.block_strides(lite.depth)):
        block, entry = f"_blocks.{number}.", x
        if f"{block}_expand_conv.weight" in weights:
            x = layers.ReLU(6.0)(convolve(x, f"{block}_expand_conv", ""))
        x = layers.ReLU(6.0)(convolve(x, f"{block}_depthwise_conv", "", stride))
        x = convolve(x, f"{block}_project_conv", "")
        x = layers.add([x, entry]) if stride == 1 and x.shape == entry.shape else x
    x = layers.GlobalAveragePooling2D()(layers.ReLU(6.0)(convolve(x, "_conv_head", "")))
    return tf.keras.Model(pixels, x)


def run_keras(model: Any, folder: Path, size: int) -> float:
    """Return the seconds of image_dataset_from_directory and predict."""
    import tensorflow as tf

    started = time.perf_counter()
    images = tf.keras.utils.image_dataset_from_directory(
        folder, batch_size=BATCH_SIZE, image_size=(size, size), shuffle=False
    )
    model.predict(images.prefetch(tf.data.AUTOTUNE), verbose=0)
    return time.perf_counter() - started


def main() -> None:
    """Print and write all figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path)
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--images", dest="count", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    backbone = "{keras: InceptionV3, weights: none}" if options.backbone == "InceptionV3" else options.backbone
    backbone = yaml.safe_load(backbone)
    whole = list_images(str(options.images))
    step = max(len(whole.files) // options.count, 1)
    listing = whole._replace(files=[file for file in whole.files[::step] if "." in file.key])
    listing = listing._replace(labels=[text for text in whole.labels if text in {file.text for file in listing.files}])
    count = len(listing.files)
    contents = iter([Path(file.path).read_bytes() for file in listing.files])
    encoded = list(iter(lambda: list(itertools.islice(contents, BATCH_SIZE)), []))
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as place:
        for file in listing.files:
            link = Path(place, "images", file.key)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(Path(file.path).resolve())
        prepared = prepare_backbone(parse_backbone(backbone), Path(place), Progress(Console(quiet=True)))
        folder, size = Path(place, prepared.id), prepared.size or 0
        session = BackboneSession(folder)
        engines = {name: load_engine(name, folder) for name in list_engines(folder)}
        keras = build_keras(options.backbone, size)
        for number in range(options.rounds + 1):
            timed = {"Keras": run_keras(keras, Path(place, "images"), size)}
            started = time.perf_counter()
            for image in [image for batch in encoded for image in batch][::10]:
                session.compute_bottlenecks([image])
            timed["tutorials' loop"] = (time.perf_counter() - started) * 10
            for name, engine in engines.items():
                timed[f"{name} limit"] = measure_limit(session, engine, encoded)
                timed[name] = run_stages(listing, backbone, name)
            for name, value in timed.items():
                if number:  # the first round warms up
                    seconds.setdefault(name, []).append(value)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"{options.backbone}, {count} images, {options.rounds} rounds")
    print(f"{'':24} {'images/s':>8}  {'spread':>12}  {'of limit':>10}  {'x Keras':>7}")
    for name, values in seconds.items():
        share = f"{medians[f'{name} limit'] / medians[name]:.2f}" if f"{name} limit" in medians else ""
        times = f"{medians['Keras'] / medians[name]:.2f}"
        spread = f"({count / max(values):.0f} to {count / min(values):.0f})"
        print(f"{name:24} {count / medians[name]:8.1f}  {spread:>12}  {share:>10}  {times:>7}")
    result = {"backbone": options.backbone, "images": count, "seconds": seconds, "medians": medians}
    Path(__file__).with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
