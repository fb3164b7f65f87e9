"""Validate: TFDV statistics per split, a schema, and the anomalies that stop a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import apache_beam as beam
import numpy as np
import pyarrow as pa
import tensorflow_data_validation as tfdv
from apache_beam.options.pipeline_options import PipelineOptions
from google.protobuf import text_format
from google.protobuf.json_format import MessageToDict
from tensorflow_data_validation.statistics.stats_impl import GenerateSlicedStatisticsImpl
from tensorflow_metadata.proto.v0 import statistics_pb2
from tfx_bsl.public import tfxio

from components import features
from components.errors import UserError
from components.features import SPLITS
from components.outcomes import Examples, Validation, Work
from components.run_dir import RunDir
from components.shards.records import check_count, shard_patterns
from components.storage.files import write_json, write_text
from components.storage.ownership import replacing_shared_folder
from components.storage.places import plain_folder
from components.validate.schema import SIZE_CLASS, describe_anomalies, describe_changes, infer_schema, load_schema
from components.validate.settings import Gate

STATISTICS_FILE = "statistics.tfrecord"


def validate_examples(examples: Examples, run: RunDir, gate: Gate, options: PipelineOptions) -> Validation:
    """Write statistics, schema and anomalies of every split, and return the anomalies as warnings.

    Raises UserError for anomalies of severity error, unless gate.on_anomaly is warn.
    """
    baseline = RunDir(gate.baseline) if gate.baseline else None
    previous = _load_baseline(baseline) if baseline else None
    with plain_folder(run.examples) as records, replacing_shared_folder(run.validation) as folder:
        _compute_statistics(records, examples.shards, folder / STATISTICS_FILE, options)
        statistics = load_statistics(folder / STATISTICS_FILE)
        for split, count in examples.splits.items():
            check_count(statistics[split].datasets[0].num_examples, count, run.examples / f"{split}-*.tfrecord")
        path, labels = gate.schema_path, examples.labels
        schema = load_schema(path) if path else infer_schema(statistics, previous, labels, gate)
        write_text(folder / "schema.pbtxt", text_format.MessageToString(schema, as_utf8=True))
        train = statistics["train"]
        anomalies = {"train": tfdv.validate_statistics(train, schema, previous_statistics=previous)}
        for split in SPLITS[1:]:
            anomalies[split] = tfdv.validate_statistics(statistics[split], schema, serving_statistics=train)
        write_json(folder / "anomalies.json", {split: MessageToDict(found) for split, found in anomalies.items()})

    findings = [finding for split in SPLITS for finding in describe_anomalies(split, anomalies[split])]
    errors = [sentence for severity, sentence in findings if severity == "ERROR"]
    if errors and gate.on_anomaly == "stop":
        raise UserError(
            f"The data has {len(errors)} anomal{'y' if len(errors) == 1 else 'ies'}: {'; '.join(errors[:3])}: "
            f"read '{run.validation / 'anomalies.json'}', then correct the data or the limits under validation."
        )
    changes = describe_changes(baseline, examples.labels) if baseline else []
    warnings = [*changes, *(f"{sentence}." for _, sentence in findings)]
    return Validation(Work(items=examples.written, computed=examples.written), warnings)


def _compute_statistics(folder: Path, shards: Sequence[int], file: Path, options: PipelineOptions) -> None:
    with beam.Pipeline(options=options) as pipeline:
        batches = []
        for split in SPLITS:
            patterns = shard_patterns(folder, split, shards)
            records = tfxio.TFExampleRecord(patterns, telemetry_descriptors=["topgraft"])
            batches.append(
                pipeline
                | f"Read {split} examples" >> records.BeamSource()
                | f"Describe {split} images" >> beam.Map(describe_images)
                | f"Name {split}" >> beam.WithKeys(split)
            )
        _ = (
            batches
            | "Join splits" >> beam.Flatten()
            # tfdv.GenerateStatistics would add a slice of all splits, or run once per split: three times the graph.
            | "Compute statistics" >> GenerateSlicedStatisticsImpl(tfdv.StatsOptions(), is_slicing_enabled=True)
            | "Write statistics" >> tfdv.WriteStatisticsToTFRecord(str(file))
        )


def load_statistics(file: Path) -> dict[str, statistics_pb2.DatasetFeatureStatisticsList]:
    """Return the statistics of each split from a TFRecord file that TFDV wrote."""
    datasets = tfdv.load_statistics(str(file)).datasets
    return {data.name: statistics_pb2.DatasetFeatureStatisticsList(datasets=[data]) for data in datasets}


def describe_images(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return the batch without the images, which ingest has decoded and which would move between the workers, and with
    a column that names the octave of the size of each image, the square root of its pixels."""
    columns = dict(zip(batch.schema.names, batch.columns, strict=True))
    height, width = (columns[name].flatten().to_numpy() for name in (features.HEIGHT, features.WIDTH))
    octaves = np.floor(np.log2(height * width.astype(np.float64)) / 2).astype(int)
    names = [[f"{2**octave} to {2 ** (octave + 1)} pixels".encode()] for octave in octaves]
    del columns[features.ENCODED]
    columns[SIZE_CLASS] = pa.array(names, pa.large_list(pa.large_binary()))
    return pa.RecordBatch.from_arrays([*columns.values()], [*columns])


def _load_baseline(baseline: RunDir) -> statistics_pb2.DatasetFeatureStatisticsList:
    file = baseline.validation / STATISTICS_FILE
    if not file.exists():
        raise UserError(f"The file '{file}' does not exist: set validation.baseline to a run directory that has it.")
    return load_statistics(file)["train"]
