"""Convert an exported SavedModel, without its decoding, to another format, and compare the models on the test split."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from components import features
from components.errors import UserError
from components.export.formats import FORMATS, IMAGES, LABELS_FILE, Classify
from components.export.versions import check_export, read_facts
from components.features import ENCODED, LABEL
from components.run_dir import MODEL_CARD, RunDir
from components.shards.records import IMAGE_SPEC, read_batches, shard_files
from components.storage.files import write_json, write_text
from components.storage.ownership import replacing_folder
from components.storage.places import plain_folder
from components.terminal.progress import Progress

v1 = tf.compat.v1

COMPARISON_FILE = "comparison.json"
# The clients that are written beside the models, and the change in them for networks with TensorFlow 1's resizing.
CLIENTS = {"tflite": ["classify.py"], "onnx": ["classify.py", "classify.html"], "openvino": ["classify.py"]}
RESIZING = ("OFFSET = 0.5", "OFFSET = 0.0")


@dataclass(frozen=True)
class Agreement:
    """Results of a model on the test split: accuracy, and the fraction of images with the export's top class."""

    agreement: float
    accuracy: float
    bytes: int


@dataclass(frozen=True)
class Comparison:
    """Content of comparison.json: accuracy of the export on its test images, and the results of each model."""

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


def convert_export(export: Path, run: RunDir, target: str, progress: Progress) -> tuple[Path, Comparison]:
    """Write the models of a target of FORMATS to <target>/<version>/; return the folder, and how they compare.

    Raises UserError for an export outside a run, of other classes than the run has by now, or without a single image
    input, and for a model that the format cannot express.
    """
    ingested = run.stages / "ingest.json"
    if not ingested.exists():
        raise UserError(
            f"'{export}' does not lie in the export folder of its run, on whose test images the models are compared: "
            f"give the directory of a run."
        )
    examples = json.loads(ingested.read_text(encoding="utf-8"))["outcome"]
    final = run.root / target / export.name
    with replacing_folder(final) as folder, _serving(export) as served:
        facts = read_facts(export)
        if facts["classes"] != examples["labels"]:
            raise UserError(
                f"The SavedModel '{export}' has other classes than the run's test images: give a version that was "
                f"exported later."
            )
        for file in (export / "assets" / LABELS_FILE, export / MODEL_CARD):
            (folder / file.name).write_bytes(file.read_bytes())
        metadata = {"labels": json.dumps(facts["classes"])}
        if facts["abstention"]:
            metadata["abstain_below"] = str(facts["abstention"]["threshold"])
        try:
            paths = FORMATS[target].write(cut_graph(served), metadata, folder)
            models = {name: FORMATS[target].load(path) for name, path in paths.items()}
        except Exception as error:  # each library has exceptions of many kinds, some of private modules
            reason = str(error).strip().partition("\n")[0].rstrip(". ")
            raise UserError(
                f"{target} cannot express this model ({reason}): choose a backbone of standard operations."
            ) from error
        for name in CLIENTS[target]:
            client = Path(__file__).with_name(name).read_text(encoding="utf-8")
            write_text(folder / name, client.replace(*RESIZING) if _resizes_as_before(served) else client)
        batches = read_batches(shard_files(run.examples, "test", examples["shards"]), IMAGE_SPEC)
        sizes = {
            name: sum(file.stat().st_size for file in folder.glob(f"{path.stem}.*")) for name, path in paths.items()
        }
        comparison = compare_models(served, export.name, models, sizes, batches, examples["splits"]["test"], progress)
        write_json(folder / COMPARISON_FILE, asdict(comparison))
    return final, comparison


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
            raise UserError(
                f"The SavedModel '{export}' takes bottlenecks only: a conversion needs a run with a network."
            )
        image_bytes = signature.inputs[features.IMAGE_BYTES].name
        try:
            scaled = session.graph.get_tensor_by_name(f"backbone/{features.PIXELS}:0")
        except KeyError:
            raise UserError(
                f"The SavedModel '{export}' has several backbones side by side, each with its own pixels: a "
                f"conversion needs a run with one backbone."
            ) from None
        # The preprocessing ends with a subtraction and a multiplication: before these, pixels are 0 to 255.
        pixels = scaled.op.inputs[0].op.inputs[0]
        black = tf.io.encode_png(np.zeros((1, 1, 3), np.uint8)).numpy()
        if len(session.run(pixels, {image_bytes: [black]})) > 1:
            raise UserError(
                f"The SavedModel '{export}' averages several views of each image, which a converted model cannot do: "
                f"set augment.average=false and run again."
            )
        yield Served(session, image_bytes, pixels.name, signature.outputs[features.PROBABILITIES].name)


def _resizes_as_before(served: Served) -> bool:
    """Return whether images are resized with the sampling of TensorFlow 1."""
    operations = served.session.graph.get_operations()
    return any(op.type == "ResizeBilinear" and not op.get_attr("half_pixel_centers") for op in operations)


def cut_graph(served: Served) -> Any:
    """Return the GraphDef from IMAGES float32[N, S, S, 3] in 0..255 to PROBABILITIES float32[N, C]."""
    graph = served.session.graph
    shape = graph.get_tensor_by_name(served.pixels).shape
    output = served.probabilities.partition(":")[0]
    with graph.as_default():
        frozen = v1.graph_util.convert_variables_to_constants(served.session, graph.as_graph_def(), [output])
    with tf.Graph().as_default() as cut:
        images = v1.placeholder(tf.float32, [None, *shape[1:]], IMAGES)
        (answers,) = tf.import_graph_def(frozen, {served.pixels: images}, [served.probabilities], name="cut")
        tf.identity(answers, features.PROBABILITIES)
    return v1.graph_util.extract_sub_graph(cut.as_graph_def(), [features.PROBABILITIES])


def compare_models(
    served: Served,
    version: str,
    models: Mapping[str, Classify],
    sizes: Mapping[str, int],
    batches: Iterable[dict[str, np.ndarray]],
    count: int,
    progress: Progress,
) -> Comparison:
    """Compare models with their export on batches of `count` images in total; raises UserError without images.

    All get the pixels that the export's own graph decodes, so only network and head can differ.
    """
    labels: list[int] = []
    expected: list[int] = []
    answers: dict[str, list[int]] = {name: [] for name in models}
    for batch in batches:
        feed = {served.image_bytes: batch[ENCODED]}
        pixels, probabilities = served.session.run([served.pixels, served.probabilities], feed)
        labels += batch[LABEL].tolist()
        expected += probabilities.argmax(1).tolist()
        for name, classify in models.items():
            answers[name] += classify(pixels).argmax(1).tolist()
        progress.report(len(labels), count, "images")
    if not labels:
        raise UserError("The run has no test images to compare the models on: give the output_dir of a finished run.")

    def agree(found: list[int], wanted: list[int]) -> float:
        return float(np.mean(np.equal(found, wanted)))

    agreements = {
        name: Agreement(agree(found, expected), agree(found, labels), sizes[name]) for name, found in answers.items()
    }
    return Comparison(version, len(labels), agree(expected, labels), agreements)
