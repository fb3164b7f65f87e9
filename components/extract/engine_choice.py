"""The choice of an engine by trials on the user's own images."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np

from components.backbones.engines import BATCHES_IN_FLIGHT, EXTRACTION_BATCH_SIZE, list_engines, load_engine
from components.backbones.prepare import Backbone
from components.errors import DamagedFile
from components.extract.settings import EngineChoice
from components.features import SPLITS, TENSORFLOW
from components.outcomes import Examples
from components.run_dir import RunDir
from components.shards.image_sample import sample_images
from components.storage.files import read_json, write_json
from components.storage.ownership import claim_files

# Batches on which engines are tried, the first to warm up.
TRIAL_BATCHES = 9


class EngineTrial(NamedTuple):
    """Results of an engine on the sample: images per second, and the cosines of its bottlenecks with TensorFlow's."""

    engine: str
    images_per_second: float
    median_cosine: float
    first_percentile_cosine: float


def resolve_engine(examples: Examples, backbone: Backbone, choice: EngineChoice, run: RunDir) -> str:
    """Return the engine that trials on the user's own images choose, and write the trials beside the bottlenecks.

    An earlier choice is kept: another engine would compute all bottlenecks again.
    """
    file = run.trials(backbone.id)
    with suppress(FileNotFoundError, DamagedFile):
        before = read_json(file, "engine", "choice")
        if before["choice"] == asdict(choice):
            return str(before["engine"])
    sampled = sample_images(run.examples, SPLITS, examples.shards, TRIAL_BATCHES * EXTRACTION_BATCH_SIZE)
    encoded = [image.encoded for image in sampled]
    count = math.ceil(len(encoded) / EXTRACTION_BATCH_SIZE)
    batches = [encoded[start::count] for start in range(count)]  # the first, which is not compared, has all classes too
    if len(batches) < 2:
        return TENSORFLOW
    trials = try_engines(run.backbones / backbone.id, batches)
    engine = choose_engine(trials, choice)
    claim_files(file.parent, [file.name])
    write_json(file, {"engine": engine, "choice": asdict(choice), "trials": [trial._asdict() for trial in trials]})
    return engine


def try_engines(folder: Path, batches: Sequence[list[bytes]]) -> list[EngineTrial]:
    """Time every engine on batches of encoded images; the first of these only warms it up."""
    trials: list[EngineTrial] = []
    exact: np.ndarray = np.zeros(0)
    for name in list_engines(folder):
        engine = load_engine(name, folder)
        engine.compute_bottlenecks(batches[0])
        started = time.perf_counter()
        with ThreadPoolExecutor(BATCHES_IN_FLIGHT) as pool:
            found = np.concatenate(list(pool.map(engine.compute_bottlenecks, batches[1:])))
        seconds = time.perf_counter() - started
        exact = found if name == TENSORFLOW else exact
        cosines = compare_directions(found, exact)
        trials.append(EngineTrial(name, len(found) / seconds, *np.percentile(cosines, (50, 1)).tolist()))
    return trials


def choose_engine(trials: Sequence[EngineTrial], choice: EngineChoice) -> str:
    """Return the fastest engine with bottlenecks close enough to TensorFlow's; TensorFlow itself always qualifies."""
    close = [
        trial
        for trial in trials
        if trial.engine == TENSORFLOW
        or trial.median_cosine >= choice.median_cosine
        and trial.first_percentile_cosine >= choice.first_percentile_cosine
    ]
    return max(close, key=lambda trial: trial.images_per_second).engine


def compare_directions(vectors: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the cosines float64[N] between the rows of two arrays float32[N, D]; 1 where both are zeros."""
    products = (vectors * others).sum(1, dtype=np.float64)
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1) * np.linalg.norm(others.astype(np.float64), axis=1)
    equal = (vectors == others).all(1)
    return np.where(equal, 1.0, products / np.where(lengths > 0, lengths, 1))
