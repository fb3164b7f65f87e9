"""Extraction from files on disk to bottleneck shards on disk, beside its limit, Keras and the tutorials' loop.

    python benchmarks/extraction.py data/caltech101 [--backbone efficientnet_lite0] [--images 2000] [--rounds 3]

Prints a table and writes benchmarks/extraction.json, for TensorFlow and for the engine that auto chooses on these
images. The limit of an engine is the time that decoding and resizing alone and its forward pass alone take, on data
in memory and on all cores; "bare" is the forward pass alone. Keras is image_dataset_from_directory and predict with the
same network; the tutorials' loop is one image a session.run, over a tenth of the images. ONNX Runtime is timed where it
and tf2onnx are installed.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import itertools
import json
import operator
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml
from apache_beam.options.pipeline_options import PipelineOptions
from rich.console import Console

from components import features
from components.backbones.efficientnet_lite import load_weights, stage_strides
from components.backbones.engines import BATCHES_IN_FLIGHT, EXTRACTION_BATCH_SIZE, load_engine
from components.backbones.openvino_network import cut_graph, quantize_network
from components.backbones.prepare import BackboneSession, prepare_backbone
from components.backbones.settings import Augment
from components.backbones.spec import EMBEDDED, parse_backbone
from components.data.image_file import ImageFile
from components.data.image_list import ImageList, Listing
from components.data.listing import list_images
from components.extract.engine_choice import COMPARED_IMAGES, QUANTIZED_BY, try_engines
from components.extract.extract import extract_bottlenecks
from components.extract.settings import EngineChoice
from components.features import OPENVINO_INT8, TENSORFLOW
from components.ingest.ingest import ingest_images
from components.ingest.settings import IngestRules, Split
from components.run_dir import RunDir
from components.shards.spans import choose_shards
from components.terminal.progress import Progress

WHOLE = Augment()
WARM_UP = 150  # images
SHARES = {"train": 0.6, "val": 0.2, "test": 0.2}


def take_listing(whole: Listing, files: list[ImageFile]) -> Listing:
    """Return a listing of some files with the classes that they have."""
    texts = {file.text for file in files}
    return whole._replace(files=ImageList.collect(files), labels=[text for text in whole.labels if text in texts])


def read_batches(listing: Listing) -> list[list[bytes]]:
    """Read all images into memory, in batches."""
    contents = iter([Path(file.path).read_bytes() for file in listing.files])
    return list(iter(lambda: list(itertools.islice(contents, EXTRACTION_BATCH_SIZE)), []))


def link_images(listing: Listing, folder: Path) -> Path:
    """Link the images of a listing into a folder, which is returned."""
    for file in listing.files:
        link = folder / file.key
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(Path(file.path).resolve())
    return folder


def run_stages(listing: Listing, backbone: Any, engine: str) -> float:
    """Return the seconds of ingest and extract into an empty run directory."""
    options, progress = PipelineOptions(["--runner", "FnApiRunner"]), Progress(Console(quiet=True))
    rules = IngestRules(Split(**SHARES))
    with tempfile.TemporaryDirectory() as folder:
        run = RunDir(Path(folder))
        prepare_backbone(parse_backbone(backbone), run.backbones, progress)  # freezing is once a machine, not an image
        started = time.perf_counter()
        shards = choose_shards(len(listing.files))
        examples = ingest_images(listing, rules, shards, 0, run, options, progress)
        choice = EngineChoice(engine)
        extract_bottlenecks(examples, parse_backbone(backbone), choice, WHOLE, run, options, progress)
        return time.perf_counter() - started


def time_side_by_side(compute: Callable[[Any], Any], batches: Iterable[Any]) -> float:
    """Return the seconds that all batches take, as many at once as in extraction."""
    started = time.perf_counter()
    with ThreadPoolExecutor(BATCHES_IN_FLIGHT) as pool:
        for _ in pool.map(compute, batches):
            pass
    return time.perf_counter() - started


def measure_parts(
    session: BackboneSession, forwards: dict[str, Callable[[Any], Any]], encoded: list[list[bytes]]
) -> dict[str, float]:
    """Return the seconds of decoding alone and of each forward pass alone."""
    seconds = dict.fromkeys(["decoding", *forwards], 0.0)
    for window in (encoded[start : start + 10] for start in range(0, len(encoded), 10)):  # pixels are large
        seconds["decoding"] += time_side_by_side(session.decode, window)
        pixels = [session.decode(batch) for batch in window]
        for name, forward in forwards.items():
            seconds[name] += time_side_by_side(forward, pixels)
    return seconds


def load_onnx(folder: Path) -> Callable[[Any], Any] | None:
    """Return the forward pass of ONNX Runtime, where it and the converter are installed."""
    if not (importlib.util.find_spec("onnxruntime") and importlib.util.find_spec("tf2onnx")):
        return None
    import onnxruntime
    import tf2onnx

    names = [f"{features.PIXELS}:0"], [f"cut/{features.BOTTLENECK}:0"]
    model, _ = tf2onnx.convert.from_graph_def(cut_graph(folder), input_names=names[0], output_names=names[1])
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return lambda pixels: session.run(names[1], {names[0][0]: pixels[0]})[0]


def build_keras(backbone: str, size: int) -> Any:
    """Return the network of the same shape in Keras, weights random."""
    import tensorflow as tf

    if backbone == "InceptionV3":
        return tf.keras.applications.InceptionV3(include_top=False, weights=None, pooling="avg")
    layers = tf.keras.layers
    lite = EMBEDDED[backbone]
    weights = load_weights(backbone)

    def convolve(x: Any, name: str, norm: str, stride: int = 1) -> Any:
        out, _, kernel, _ = weights[f"{name}.weight"].shape
        if "depthwise" in name:
            x = layers.DepthwiseConv2D(kernel, stride, "same", use_bias=False)(x)
        else:
            x = layers.Conv2D(out, kernel, stride, "same", use_bias=False)(x)
        return layers.BatchNormalization()(x)

    pixels = layers.Input([size, size, 3])
    x = layers.ReLU(6.0)(convolve(layers.Rescaling(1 / 128, -127 / 128)(pixels), "_conv_stem", "_bn0", 2))
    for number, stride in enumerate(itertools.chain.from_iterable(stage_strides(lite.depth))):
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
    with contextlib.redirect_stdout(io.StringIO()):
        images = tf.keras.utils.image_dataset_from_directory(
            folder, batch_size=EXTRACTION_BATCH_SIZE, image_size=(size, size), shuffle=False
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
    files = [file for file in whole.files if "." in file.key]
    listing = take_listing(whole, files[:: max(len(files) // options.count, 1)])
    count = len(listing.files)
    encoded = read_batches(listing)
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as place:
        few = take_listing(whole, files[:: len(files) // WARM_UP])
        folders = {number: link_images(part, Path(place, str(number))) for number, part in enumerate((few, listing))}
        prepared = prepare_backbone(parse_backbone(backbone), Path(place), Progress(Console(quiet=True)))
        folder, size = Path(place, prepared.id), prepared.size or 0
        session = BackboneSession(folder)
        some = [*itertools.chain(*encoded)]
        chosen, trials = try_engines(folder, some[:: max(len(some) // COMPARED_IMAGES, 1)], EngineChoice())
        for trial in trials:
            print(f"trial of {trial.engine:16} cosines {trial[1:]}", flush=True)
        quantize_network(folder, some[:QUANTIZED_BY])
        engines = dict.fromkeys([TENSORFLOW, chosen, OPENVINO_INT8])
        forwards = {f"{name}, bare": load_engine(name, folder).compute_from_pixels for name in engines}
        onnx = load_onnx(folder)
        if onnx:
            forwards["ONNX Runtime, bare"] = onnx
        keras = build_keras(options.backbone, size)
        for number in range(options.rounds + 1):
            # The first round is a short one, to warm up.
            part, batches = (listing, encoded) if number else (few, read_batches(few))
            timed = {"Keras": run_keras(keras, folders[min(number, 1)], size)}
            started = time.perf_counter()
            for image in [image for batch in batches for image in batch][::10]:
                session.compute_bottlenecks([image])
            timed["tutorials' loop"] = (time.perf_counter() - started) * 10
            timed.update(measure_parts(session, forwards, batches))
            for name in engines:
                timed[f"{name}, limit"] = timed["decoding"] + timed[f"{name}, bare"]
                timed[name] = run_stages(part, backbone, name)
            for name, value in timed.items():
                if number:
                    seconds.setdefault(name, []).append(value)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"{options.backbone}, {count} images, {options.rounds} rounds")
    print(f"{'':24} {'images/s':>8}  {'spread':>12}  {'of limit':>10}  {'x Keras':>7}")
    for name, values in seconds.items():
        limits = seconds.get(f"{name}, limit")
        share = f"{statistics.median(map(operator.truediv, limits, values)):.2f}" if limits else ""
        times = f"{statistics.median(map(operator.truediv, seconds['Keras'], values)):.2f}"
        spread = f"({count / max(values):.0f} to {count / min(values):.0f})"
        print(f"{name:24} {count / medians[name]:8.1f}  {spread:>12}  {share:>10}  {times:>7}")
    result = {"backbone": options.backbone, "images": count, "seconds": seconds, "medians": medians}
    Path(__file__).with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
