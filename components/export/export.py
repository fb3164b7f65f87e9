"""Export: backbone, head and labels as one SavedModel with an image signature and a bottleneck signature."""

from __future__ import annotations

import functools
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from components.backbones.prepare import load_graph
from components.backbones.settings import Augment
from components.backbones.views import WHOLE, list_views
from components.export.explain import describe_evidence, explaining_model_fn
from components.export.settings import Abstain
from components.export.versions import SAVED_MODEL, list_versions
from components.features import (
    BOTTLENECK,
    BOTTLENECK_SIGNATURE,
    CLASS,
    EVIDENCE,
    EXPLAIN_SIGNATURE,
    IMAGE_BYTES,
    INDEX,
    PROBABILITIES,
    SERVING_SIGNATURE,
    VIEWS,
)
from components.metrics.calibration import Abstention, choose_abstention
from components.outcomes import Bottlenecks, Examples, Export, Head, Work
from components.run_dir import MODEL_CARD, RunDir
from components.shards.bottlenecks import Source
from components.storage.checksums import write_checksums
from components.storage.files import write_json
from components.storage.ownership import replacing_folder
from components.storage.places import plain_folder, remove
from components.train.estimator import HeadClassifier
from components.train.inputs import evaluate_from_shards
from components.train.model import model_fn
from components.train.settings import Architecture
from components.train.train import load_classifier, read_source

v1 = tf.compat.v1


def export_model(
    examples: Examples,
    bottlenecks: Bottlenecks,
    head: Head,
    architecture: Architecture,
    augment: Augment,
    abstain: Abstain | None,
    run: RunDir,
) -> Export:
    """Write export/<version>/ with the signatures serving_default (image bytes in) and bottleneck (vectors in).

    A backbone with maps also gives the signature explain (image bytes and names of classes in). With abstain the model
    abstains below the threshold that reaches the precision on the validation split.
    """
    graph_def = load_graph(run.backbones / bottlenecks.backbone_id)
    views = list_views(augment) if augment.average else WHOLE
    explains, note = describe_evidence(graph_def, architecture)

    def receive() -> tf.estimator.export.ServingInputReceiver:
        if graph_def is None:  # ready-made bottlenecks without their network: images cannot be served
            inputs = {BOTTLENECK: v1.placeholder(tf.float32, [None, bottlenecks.dim], BOTTLENECK)}
            return tf.estimator.export.ServingInputReceiver(inputs, inputs, {BOTTLENECK_SIGNATURE: inputs})
        image_bytes = v1.placeholder(tf.string, [None], IMAGE_BYTES)
        # The graph has no variables: they would be looked up in the head's checkpoint.
        inputs = {IMAGE_BYTES: image_bytes}
        if augment.average:
            inputs[VIEWS] = tf.constant(views)
        (vectors,) = tf.import_graph_def(graph_def, inputs, [f"{BOTTLENECK}:0"], name="backbone")
        if augment.average:
            of_images = tf.reshape(vectors, [-1, bottlenecks.view_count, bottlenecks.dim])
            vectors = tf.reduce_mean(tf.nn.l2_normalize(of_images, -1), 1)
        vectors = tf.ensure_shape(vectors, [None, bottlenecks.dim])
        given = {BOTTLENECK: vectors}
        alternatives = {BOTTLENECK_SIGNATURE: {**given}}
        if explains:
            given[CLASS] = v1.placeholder(tf.string, [None], CLASS)
            alternatives[EXPLAIN_SIGNATURE] = {IMAGE_BYTES: image_bytes, CLASS: given[CLASS]}
        return tf.estimator.export.ServingInputReceiver(given, {IMAGE_BYTES: image_bytes}, alternatives)

    version = str(max([int(time.time()), *(int(folder.name) + 1 for folder in list_versions(run.exports))]))
    with plain_folder(run.root) as root, replacing_folder(run.exports / version, SAVED_MODEL) as partial:
        load = functools.partial(load_classifier, examples, bottlenecks, run=RunDir(root), architecture=architecture)
        abstention = None
        if abstain:
            # The exported head may have been trained on the validation split.
            judged = load(head.folder(RunDir(root)))
            abstention = measure_abstention(judged, read_source(examples, bottlenecks, run, "val"), abstain.precision)
        build = functools.partial(explaining_model_fn, views) if explains else model_fn
        threshold = abstention.threshold if abstention else None
        classifier = load(head.exported(RunDir(root)), threshold=threshold, build=build)
        scratch = partial / "scratch"
        exported = Path(classifier.export_saved_model(str(scratch), receive).decode())
        for item in exported.iterdir():
            item.rename(partial / item.name)
        exported.rmdir()
        scratch.rmdir()
        remove(partial / "variables" / "variables_temp")  # TensorFlow goes on if it cannot remove its temporary files
        _name_signatures(partial / SAVED_MODEL)
        write_checksums(partial, (file for file in partial.rglob("*") if file.is_file()))
        write_json(partial / MODEL_CARD, describe_model(examples, bottlenecks, head, abstention, note))
    return Export(Work(items=1, computed=1), version)


def measure_abstention(classifier: HeadClassifier, val: Source, precision: float) -> Abstention:
    """Return the threshold that reaches a precision on the validation split, with its results there."""
    labels = np.concatenate([part.labels for part in val.parts()])
    # Two numbers per image are kept, not the probabilities of all classes.
    predictions = classifier.predict(evaluate_from_shards(val).input_fn)
    answers = [(prediction[INDEX], prediction[PROBABILITIES].max()) for prediction in predictions]
    index, confidences = map(np.array, zip(*answers, strict=True))
    return choose_abstention(confidences, index == labels, precision)


def _name_signatures(path: Path) -> None:
    # The Estimator names the signature of an alternative input '<receiver>:<output>'; users expect '<receiver>'.
    model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    signatures = model.meta_graphs[0].signature_def
    outputs = {BOTTLENECK_SIGNATURE: SERVING_SIGNATURE, EXPLAIN_SIGNATURE: EXPLAIN_SIGNATURE}
    for name, output in outputs.items():
        if f"{name}:{output}" in signatures:
            signatures[name].CopyFrom(signatures[f"{name}:{output}"])
    for name in [name for name in signatures if name not in (SERVING_SIGNATURE, *outputs)]:
        del signatures[name]
    path.write_bytes(model.SerializeToString(deterministic=True))


def describe_model(
    examples: Examples,
    bottlenecks: Bottlenecks,
    head: Head,
    abstention: Abstention | None,
    evidence: str,
) -> dict[str, Any]:
    """Return the FACTS for model_card.json."""
    return {
        "backbone": {"name": bottlenecks.backbone_name, "id": bottlenecks.backbone_id, "dim": bottlenecks.dim},
        "classes": examples.labels,
        "images": examples.splits,
        "validation": {"accuracy": head.val_accuracy, "loss": head.val_loss, "epoch": head.best_epoch},
        "abstention": asdict(abstention) if abstention else None,
        EVIDENCE: evidence,
    }
