"""Classify images with the model beside this file:   python classify.py photo.jpg ...

Needs numpy, Pillow and one of onnxruntime, ai-edge-litert, tflite-runtime, openvino; Topgraft is not needed.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

FOLDER = Path(__file__).parent
OFFSET = 0.5  # of the centre of a pixel, when an image is resized


def load_model() -> tuple[Callable[[np.ndarray], np.ndarray], int]:
    """Return the function of the model from pixels float32[1, S, S, 3] to probabilities float32[C], and S."""
    path = next(path for path in sorted(FOLDER.iterdir()) if path.suffix in (".onnx", ".tflite", ".xml"))
    if path.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path)
        (source,) = session.get_inputs()
        return lambda pixels: session.run(None, {source.name: pixels})[0][0], source.shape[1]
    if path.suffix == ".xml":
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # it reports each import over the network
        import openvino

        network = openvino.Core().compile_model(path, "CPU")
        return lambda pixels: network(pixels)[0][0], network.input(0).partial_shape[1].get_length()
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ModuleNotFoundError:
        from tflite_runtime.interpreter import Interpreter
    run = Interpreter(str(path)).get_signature_runner()
    return lambda pixels: run(images=pixels)["probabilities"][0], run.get_input_details()["images"]["shape"][1]


def read_pixels(file: str, size: int) -> np.ndarray:
    """Return an image upright, on white and resized as float32[1, size, size, 3] in 0..255."""
    image = ImageOps.exif_transpose(Image.open(file))
    if image.mode[0] in "IF":
        sys.exit(f"'{file}' has more than 8 bits per channel, which this client cannot read: convert it to 8 bits.")
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    pixels = np.asarray(image.convert("RGB"), np.float32)
    for axis in (0, 1):
        last = pixels.shape[axis] - 1
        place = np.clip((np.arange(size) + OFFSET) * np.float32((last + 1) / size) - OFFSET, 0, last)
        lower = place.astype(int)
        share = (place - lower).reshape([-1] + [1] * (2 - axis))
        pixels = pixels.take(lower, axis) * (1 - share) + pixels.take(np.minimum(lower + 1, last), axis) * share
    return pixels.astype(np.float32)[None]


classify, side = load_model()
labels = (FOLDER / "labels.txt").read_text(encoding="utf-8", errors="surrogateescape").split("\n")
abstention = json.loads((FOLDER / "model_card.json").read_text(encoding="utf-8"))["abstention"]
for file in sys.argv[1:]:
    probabilities = classify(read_pixels(file, side))
    best = probabilities.argmax()
    note = "\tabstained" if abstention and probabilities[best] < abstention["threshold"] else ""
    print(f"{file}\t{labels[best]}\t{probabilities[best]:.6f}{note}")
