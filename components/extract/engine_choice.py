"""The choice of an engine: the fastest for the processor that is close enough on the user's own images."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np

from components.backbones.engines import list_engines, load_engine
from components.backbones.openvino_network import MODEL, UnsupportedNetwork, quantize_network, quantized_folder
from components.backbones.prepare import Backbone
from components.errors import DamagedFile
from components.extract.settings import EngineChoice
from components.features import AUTO, OPENVINO_INT8, SPLITS, TENSORFLOW
from components.outcomes import Examples
from components.run_dir import RunDir
from components.shards.image_sample import sample_images
from components.storage.files import read_json, write_json
from components.storage.ownership import claim_files

# Images on which engines are compared. Over fewer images than these another engine saves less than its start takes.
COMPARED_IMAGES = 128
# Images by which a network is quantized.
QUANTIZED_BY = 300


class EngineTrial(NamedTuple):
    """The cosines of an engine's bottlenecks with TensorFlow's over the sample, or why the engine cannot run."""

    engine: str
    median_cosine: float | None
    first_percentile_cosine: float | None
    error: str = ""


def choose_engines(examples: Examples, backbone: Backbone, choice: EngineChoice, run: RunDir) -> tuple[str, str]:
    """Return the engine of a choice, and that of the test split, '' for the same one.

    The accuracy must be that of the served model, so bottlenecks of integers are of images to train and validate on.
    """
    if choice.engine not in (AUTO, OPENVINO_INT8):
        return choice.engine, ""
    close = resolve_engine(examples, backbone, choice, run)
    if choice.engine == AUTO:
        return close, ""
    folder = run.backbones / backbone.id
    if not (quantized_folder(folder) / MODEL).exists():
        sampled = sample_images(run.examples, ["train"], examples.shards, QUANTIZED_BY)
        quantize_network(folder, [image.encoded for image in sampled])
    return OPENVINO_INT8, close


def resolve_engine(examples: Examples, backbone: Backbone, choice: EngineChoice, run: RunDir) -> str:
    """Return the first engine for this processor that is close enough to TensorFlow; write the trials.

    An earlier choice is kept: another engine would compute all bottlenecks again.
    """
    file = run.trials(backbone.id)
    with suppress(FileNotFoundError, DamagedFile):
        before = read_json(file, "engine", "choice")
        if before["choice"] == asdict(choice):
            return str(before["engine"])
    encoded = [image.encoded for image in sample_images(run.examples, SPLITS, examples.shards, COMPARED_IMAGES)]
    if len(encoded) < COMPARED_IMAGES:
        return TENSORFLOW
    engine, trials = try_engines(run.backbones / backbone.id, encoded, choice)
    claim_files(file.parent, [file.name])
    write_json(file, {"engine": engine, "choice": asdict(choice), "trials": [trial._asdict() for trial in trials]})
    return engine


def try_engines(folder: Path, encoded: Sequence[bytes], choice: EngineChoice) -> tuple[str, list[EngineTrial]]:
    """Return the first of the machine's engines whose bottlenecks are close enough to TensorFlow's, and the trials."""
    trials: list[EngineTrial] = []
    for name in list_engines():
        if name == TENSORFLOW:
            break
        try:
            engine = load_engine(name, folder)
        except UnsupportedNetwork as error:
            trials.append(EngineTrial(name, None, None, str(error)))
            continue
        exact = load_engine(TENSORFLOW, folder)
        pairs = [
            (engine.compute_bottlenecks(batch), exact.compute_bottlenecks(batch))
            for batch in (list(encoded[start : start + 32]) for start in range(0, len(encoded), 32))
        ]
        found, expected = map(np.concatenate, zip(*pairs, strict=True))
        trial = EngineTrial(name, *np.percentile(compare_directions(found, expected), (50, 1)).tolist())
        trials.append(trial)
        if is_close(trial, choice):
            return name, trials
    return TENSORFLOW, trials


def is_close(trial: EngineTrial, choice: EngineChoice) -> bool:
    """Tell whether an engine's bottlenecks are close enough to TensorFlow's."""
    median, percentile = trial.median_cosine, trial.first_percentile_cosine
    if median is None or percentile is None:
        return False
    return median >= choice.median_cosine and percentile >= choice.first_percentile_cosine


def compare_directions(vectors: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the cosines float64[N] between the rows of two arrays float32[N, D]; 1 where both are zeros."""
    products = (vectors * others).sum(1, dtype=np.float64)
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1) * np.linalg.norm(others.astype(np.float64), axis=1)
    equal = (vectors == others).all(1)
    return np.where(equal, 1.0, products / np.where(lengths > 0, lengths, 1))
