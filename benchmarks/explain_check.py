"""How much the evidence at a place matters: deletion curves of test images, by evidence and in random order.

python benchmarks/explain_check.py runs/caltech101 --images 200

Places of an image are replaced by its mean colour, those with the most evidence for the predicted class first, or in
random order. The area between both curves of that class's probability is 0 where the order tells nothing. The script
also checks that the mean over places, less the logit, is one constant per class.
"""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from components.export.explain import EXACT
from components.export.versions import find_export
from components.predict.predict import Classifier, load_export
from components.run_dir import RunDir
from components.shards.image_sample import sample_images

FRACTIONS = np.linspace(0, 1, 9)
SIDE = 300  # pixels: the images are made smaller, as each is encoded many times


def encode(pixels: np.ndarray) -> bytes:
    """Return pixels uint8[H, W, 3] as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def shrink(encoded: bytes) -> np.ndarray:
    """Return the pixels uint8[H, W, 3] of an image, SIDE at most."""
    image = Image.open(io.BytesIO(encoded)).convert("RGB")
    image.thumbnail((SIDE, SIDE))
    return np.asarray(image)


def delete(pixels: np.ndarray, order: np.ndarray, shape: tuple[int, int]) -> list[bytes]:
    """Return the image as PNGs, each of FRACTIONS of its places deleted in the order int[h * w]."""
    height, width = pixels.shape[:2]
    ranks = np.empty(order.size, int)
    ranks[order] = np.arange(order.size)
    rows, columns = (np.arange(side) * cells // side for side, cells in zip((height, width), shape, strict=True))
    at = ranks.reshape(shape)[rows[:, None], columns]
    colour = pixels.mean((0, 1)).astype(np.uint8)
    return [encode(np.where((at < fraction * order.size)[..., None], colour, pixels)) for fraction in FRACTIONS]


def measure_image(classifier: Classifier, pixels: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return the probability float[2, FRACTIONS] of the predicted class: by evidence, in random order."""
    (answer,) = classifier.explain([encode(pixels)])
    index, evidence = int(answer.probabilities.argmax()), answer.evidence[0]
    orders = np.argsort(-evidence, axis=None), random.permutation(evidence.size)
    images = [image for order in orders for image in delete(pixels, order, evidence.shape)]
    return np.array([row.probabilities[index] for row in classifier.compute(images)]).reshape(2, -1)


def check_exactness(classifier: Classifier, images: list[bytes]) -> float:
    """Return the largest difference of the evidence's mean from the logit, both less those of the first class.

    Probabilities give logits but for a constant of each image, and biases are constants of each class: so differences
    of classes are compared, after their means over the images are taken off.
    """
    labels = classifier.labels
    answers = [answer for image in images for answer in classifier.explain([image], [labels])]
    means = np.array([answer.evidence.mean((1, 2)) for answer in answers], np.float64)
    logits = np.log(np.array([answer.probabilities for answer in answers], np.float64))
    likely = np.isfinite(logits).all(0)
    gaps = (means - logits)[:, likely]
    gaps -= gaps[:, :1]
    return float(np.abs(gaps - gaps.mean(0)).max())


def main() -> None:
    """Print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--images", type=int, default=200)
    options = parser.parse_args()
    run = RunDir(options.run)
    classifier = load_export(find_export(options.run))
    if not classifier.explain:
        raise SystemExit(classifier.note)
    shards = json.loads((run.stages / "ingest.json").read_text())["outcome"]["shards"]
    images = [image.encoded for image in sample_images(run.examples, ["test"], shards, options.images)]
    random = np.random.default_rng(0)
    curves = np.array([measure_image(classifier, shrink(image), random) for image in images])
    areas = np.trapz(curves[:, 1] - curves[:, 0], FRACTIONS, axis=1)
    figures = {
        "images": len(areas),
        "area_between": round(float(areas.mean()), 4),
        "standard_error": round(float(areas.std(ddof=1) / len(areas) ** 0.5), 4),
        "images_where_positive": round(float((areas > 0).mean()), 3),
        "by_evidence": np.round(curves[:, 0].mean(0), 3).tolist(),
        "random": np.round(curves[:, 1].mean(0), 3).tolist(),
    }
    if classifier.note == EXACT:
        figures["largest_error"] = check_exactness(classifier, images[:100])
    for name, value in figures.items():
        print(f"{name:24}{value}")
    Path("benchmarks/explain_check.json").write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
