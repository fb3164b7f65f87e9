"""TFLite: convert an exported SavedModel, without its decoding, and compare the models on the test split."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from components import features
from components.errors import UserError
from components.export.export import check_export, read_facts
from components.features import ENCODED, LABEL
from components.run_dir import MODEL_CARD, RunDir
from components.shards.records import IMAGE_SPEC, read_batches, shard_files
from components.storage.files import write_json
from components.storage.ownership import replacing_folder
from components.storage.places import plain_folder
from components.terminal.progress import Progress

v1 = tf.compat.v1

IMAGES = "images"
LABELS_FILE, COMPARISON_FILE = "labels.txt", "comparison.json"
FLOAT, INT8 = "float", "int8"


@dataclass(frozen=True)
class Agreement:
    """Results of a TFLite model on the test split: accuracy, and the fraction of images with the export's top class."""

    agreement: float
    accuracy: float
    bytes: int


@dataclass(frozen=True)
class Comparison:
    """Content of comparison.json: accuracy of the export on its test images, and the results of each TFLite model."""

    export: str
    images: int
    accuracy: float
    models: dict[str, Agreement]


class Served(NamedTuple):
    """An export in a session; names of the tensors of image bytes, pixels float32[N, S, S, 3] in 0..255 and answers."""

    session: Any
    image_bytes: str
    pixels: str
    probabilities: str


def convert_export(export: Path, run: RunDir, progress: Progress) -> tuple[Path, Comparison]:
    """Write tflite/<version>/ of an export of a run; return the folder and the comparison with the export.

    The models map images float32[N, S, S, 3] in 0..255 to probabilities float32[N, C]; each has labels.txt as an
    associated file, a zip archive after the flatbuffer (https://www.tensorflow.org/lite/models/convert/metadata).
    Raises UserError for an export outside a run, of other classes than the run has by now, or without a single image
    input.
    """
    ingested = run.stages / "ingest.json"
    if not ingested.exists():
        raise UserError(
            f"'{export}' does not lie in the export folder of its run, on whose test images the models are compared: "
            f"give the directory of a run."
        )
    examples = json.loads(ingested.read_text(encoding="utf-8"))["outcome"]
    labels = export / "assets" / LABELS_FILE
    with replacing_folder(run.tflite / export.name) as folder, _serving(export) as served:
        if read_facts(export)["classes"] != examples["labels"]:
            raise UserError(
                f"The SavedModel '{export}' has other classes than the run's test images: give a version that was "
                f"exported later."
            )
        paths = {name: folder / f"model_{name}.tflite" for name in (FLOAT, INT8)}
        function = cut_function(served)
        for name, path in paths.items():
            path.write_bytes(convert_function(function, quantize=name == INT8))
            with zipfile.ZipFile(path, "a") as archive:
                archive.writestr(LABELS_FILE, labels.read_bytes())
        (folder / LABELS_FILE).write_bytes(labels.read_bytes())
        (folder / MODEL_CARD).write_bytes((export / MODEL_CARD).read_bytes())
        files = shard_files(run.examples, "test", examples["shards"])
        comparison = compare_models(
            served, export.name, paths, read_batches(files, IMAGE_SPEC), examples["splits"]["test"], progress
        )
        write_json(folder / COMPARISON_FILE, asdict(comparison))
    return run.tflite / export.name, comparison


@contextmanager
def _serving(export: Path) -> Iterator[Served]:
    check_export(export)
    # Not made the default graph: the reader of the shards and the converter need others.
    with closing(v1.Session(graph=tf.Graph())) as session:
        try:
            with plain_folder(export) as plain:
                meta_graph = v1.saved_model.load(session, [tf.saved_model.SERVING], str(plain))
        except (OSError, tf.errors.OpError) as error:
            reason = str(error).splitlines()[0].rstrip(". ")
            raise UserError(f"The SavedModel '{export}' cannot be loaded ({reason}): export it again.") from error
        signature = meta_graph.signature_def[features.SERVING_SIGNATURE]
        if features.IMAGE_BYTES not in signature.inputs:
            raise UserError(f"The SavedModel '{export}' takes bottlenecks only: TFLite needs a run with a network.")
        image_bytes = signature.inputs[features.IMAGE_BYTES].name
        try:
            scaled = session.graph.get_tensor_by_name(f"backbone/{features.PIXELS}:0")
        except KeyError:
            raise UserError(
                f"The SavedModel '{export}' has several backbones side by side, each with its own pixels: TFLite "
                f"needs a run with one backbone."
            ) from None
        # The preprocessing ends with a subtraction and a multiplication: before these, pixels are 0 to 255.
        pixels = scaled.op.inputs[0].op.inputs[0]
        black = tf.io.encode_png(np.zeros((1, 1, 3), np.uint8)).numpy()
        if len(session.run(pixels, {image_bytes: [black]})) > 1:
            raise UserError(
                f"The SavedModel '{export}' averages several views of each image, which a TFLite model cannot do: set "
                f"augment.average=false and run again."
            )
        yield Served(session, image_bytes, pixels.name, signature.outputs[features.PROBABILITIES].name)


def cut_function(served: Served) -> Any:
    """Return the concrete function from images float32[N, S, S, 3] in 0..255 to probabilities float32[N, C]."""
    graph = served.session.graph
    shape = graph.get_tensor_by_name(served.pixels).shape
    output = served.probabilities.partition(":")[0]
    with graph.as_default():
        frozen = v1.graph_util.convert_variables_to_constants(served.session, graph.as_graph_def(), [output])
    with tf.Graph().as_default() as cut:
        images = v1.placeholder(tf.float32, [None, *shape[1:]], IMAGES)
        tf.import_graph_def(frozen, {served.pixels: images}, name="cut")
    pruned = v1.graph_util.extract_sub_graph(cut.as_graph_def(), [f"cut/{output}"])

    def classify(images: tf.Tensor) -> dict[str, tf.Tensor]:
        (answers,) = tf.import_graph_def(pruned, {f"{IMAGES}:0": images}, [f"cut/{served.probabilities}"])
        return {features.PROBABILITIES: answers}

    spec = tf.TensorSpec([None, *shape[1:]], tf.float32, IMAGES)
    return tf.function(classify, input_signature=[spec]).get_concrete_function()


def convert_function(function: Any, quantize: bool) -> bytes:
    """Convert a concrete function to a TFLite model; quantize stores the weights as int8 (dynamic range)."""
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], tf.Module())
    if quantize:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    try:
        model: bytes = converter.convert()
    except Exception as error:  # the converter raises bare exceptions and ConverterError of a private module
        reason = str(error).strip().splitlines()[0].rstrip(". ")
        raise UserError(
            f"TensorFlow Lite cannot express this model ({reason}): choose a backbone of standard operations."
        ) from error
    return model


def load_tflite(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function of a TFLite model from an image float32[S, S, 3] in 0..255 to probabilities float32[C]."""
    interpreter = tf.lite.Interpreter(str(path), num_threads=os.cpu_count())
    interpreter.allocate_tensors()
    (source,), (output,) = interpreter.get_input_details(), interpreter.get_output_details()

    def classify(image: np.ndarray) -> np.ndarray:
        interpreter.set_tensor(source["index"], image[None])
        interpreter.invoke()
        probabilities: np.ndarray = interpreter.get_tensor(output["index"])[0]
        return probabilities

    return classify


def compare_models(
    served: Served,
    version: str,
    paths: dict[str, Path],
    batches: Iterable[dict[str, np.ndarray]],
    count: int,
    progress: Progress,
) -> Comparison:
    """Compare TFLite models with their export on batches of `count` images in total; raises UserError without images.

    All get the pixels that the export's own graph decodes, so only network and head can differ.
    """
    models = {name: load_tflite(path) for name, path in paths.items()}
    labels: list[int] = []
    expected: list[int] = []
    answers: dict[str, list[int]] = {name: [] for name in models}
    for batch in batches:
        feed = {served.image_bytes: batch[ENCODED]}
        pixels, probabilities = served.session.run([served.pixels, served.probabilities], feed)
        labels += batch[LABEL].tolist()
        expected += probabilities.argmax(1).tolist()
        for name, classify in models.items():
            answers[name] += [int(classify(image).argmax()) for image in pixels]
        progress.report(len(labels), count, "images")
    if not labels:
        raise UserError("The run has no test images to compare the models on: give the output_dir of a finished run.")

    def agree(found: list[int], wanted: list[int]) -> float:
        return float(np.mean(np.equal(found, wanted)))

    agreements = {
        name: Agreement(agree(found, expected), agree(found, labels), paths[name].stat().st_size)
        for name, found in answers.items()
    }
    return Comparison(version, len(labels), agree(expected, labels), agreements)
