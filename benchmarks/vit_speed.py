"""Extraction by vision transformers beside the transformers library on torch, in images per second, in turns.

    python benchmarks/vit_speed.py data/caltech101 --python VENV/bin/python [--images 300] [--rounds 3]

VENV has torch, transformers and Pillow. Both have the same random weights. Ours is ingest and extract, from files on
disk to shards on disk, with the start of the engine. The other decodes and resizes in threads ahead of the forward
pass, and the load of its model is not counted.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from extraction import run_stages, take_listing

from components.backbones.engines import list_engines
from components.data.listing import list_images

KINDS = ("vit_s14", "vit_b16")
# What runs in the other environment: make a folder of random weights, or print the seconds for images.
OTHER = """
import itertools, sys, time
from concurrent.futures import ThreadPoolExecutor
import torch, transformers as t
from PIL import Image

task, folder, *rest = sys.argv[1:]
if task == "make":
    torch.manual_seed(0)
    small = dict(hidden_size=384, num_hidden_layers=12, num_attention_heads=6, image_size=224, patch_size=14)
    if rest[0] == "vit_s14":
        model = t.Dinov2Model(t.Dinov2Config(**small))
        processor = t.BitImageProcessorPil(size={"shortest_edge": 256}, crop_size={"height": 224, "width": 224})
    else:
        model, processor = t.ViTModel(t.ViTConfig(), add_pooling_layer=False), t.ViTImageProcessorPil()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    sys.exit()
precision, paths = rest[0], open(rest[1]).read().splitlines()
model = t.AutoModel.from_pretrained(folder, dtype=getattr(torch, precision)).eval()
processor = t.AutoImageProcessor.from_pretrained(folder, backend="pil")
batches = [paths[start : start + 32] for start in range(0, len(paths), 32)]

def prepare(batch):
    pixels = processor([Image.open(path).convert("RGB") for path in batch], return_tensors="pt").pixel_values
    return pixels.to(model.dtype)

with torch.inference_mode(), ThreadPoolExecutor(2) as pool:
    model(prepare(batches[0]))
    started = time.perf_counter()
    for pixels in pool.map(prepare, batches):
        model(pixels).last_hidden_state
    print(time.perf_counter() - started)
"""


def ask_other(python: str, *words: object) -> str:
    """Return what the script OTHER prints."""
    return subprocess.run([python, "-c", OTHER, *map(str, words)], check=True, stdout=subprocess.PIPE, text=True).stdout


def main() -> None:
    """Print all figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path)
    parser.add_argument("--python", required=True)
    parser.add_argument("--images", dest="count", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    whole = list_images(str(options.images))
    files = [file for file in whole.files if "." in file.key]
    listing = take_listing(whole, files[:: max(len(files) // options.count, 1)])
    with tempfile.TemporaryDirectory() as place:
        paths = Path(place, "paths")
        paths.write_text("\n".join(str(Path(file.path).resolve()) for file in listing.files))
        for kind in KINDS:
            folder = Path(place, kind)
            ask_other(options.python, "make", folder, kind)
            seconds: dict[str, list[float]] = {}
            for _ in range(options.rounds):
                for precision in ("float32", "bfloat16"):
                    taken = float(ask_other(options.python, "time", folder, precision, paths))
                    seconds.setdefault(f"transformers, {precision}", []).append(taken)
                for engine in list_engines():
                    taken = run_stages(listing, {"vit": str(folder)}, engine)
                    seconds.setdefault(f"Topgraft, {engine}", []).append(taken)
            plain = statistics.median(seconds["transformers, float32"])
            for name, values in seconds.items():
                median = statistics.median(values)
                count = len(listing.files)
                print(f"{kind}  {name:26} {count / median:6.1f} images/s  {plain / median:.2f} x transformers, float32")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
