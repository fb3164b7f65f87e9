"""Validate: TFDV statistics of each split, a schema, and the anomalies that stop a run."""

from __future__ import annotations

import math
from pathlib import Path

import apache_beam as beam
import tensorflow_data_validation as tfdv
from apache_beam.options.pipeline_options import PipelineOptions
from google.protobuf import text_format
from google.protobuf.json_format import MessageToDict
from tensorflow_metadata.proto.v0 import anomalies_pb2, schema_pb2, statistics_pb2
from tfx_bsl.public import tfxio

from components import features
from components.errors import UserError
from components.features import SPLITS, Examples, RunDir, Validation, Work
from components.files import replacing_folder, write_json, write_text

# Below this many values TFDV does not look at the formats of images (ImageStatsGenerator's values_threshold).
IMAGES_FOR_FORMATS = 100


def validate_examples(
    examples: Examples, run: RunDir, split_skew: float, schema_file: Path | None, options: PipelineOptions
) -> Validation:
    """Write statistics, schema and anomalies of every split; raises UserError naming anomalies of severity error.

    split_skew is how far a class's share may differ between two splits (L-infinity norm), chance allowed for.
    """
    with replacing_folder(run.validation) as folder:
        _compute_statistics(run.examples, folder, options)
        statistics = {split: tfdv.load_statistics(str(_statistics_file(folder, split))) for split in SPLITS}
        schema = _load_schema(schema_file) if schema_file else infer_schema(statistics["train"], examples, split_skew)
        write_text(folder / "schema.pbtxt", text_format.MessageToString(schema, as_utf8=True))
        anomalies = {split: _find_anomalies(split, statistics, schema) for split in SPLITS}
        write_json(folder / "anomalies.json", {split: MessageToDict(found) for split, found in anomalies.items()})

    findings = [finding for split in SPLITS for finding in describe_anomalies(split, anomalies[split])]
    errors = [sentence for severity, sentence in findings if severity == "ERROR"]
    if errors:
        raise UserError(
            f"The data has {len(errors)} anomal{'y' if len(errors) == 1 else 'ies'}: {'; '.join(errors[:3])}: "
            f"see '{run.validation / 'anomalies.json'}', then mend the data or the limits under validate."
        )
    return Validation(Work(items=examples.written, computed=examples.written), [sentence for _, sentence in findings])


def _statistics_file(folder: Path, split: str) -> Path:
    return folder / f"statistics-{split}.tfrecord"


def _compute_statistics(examples: Path, folder: Path, options: PipelineOptions) -> None:
    # Told that they are images, TFDV counts formats and sizes of the bytes instead of ranking them as strings.
    images = schema_pb2.Feature(name=features.ENCODED, type=schema_pb2.BYTES, image_domain=schema_pb2.ImageDomain())
    settings = tfdv.StatsOptions(schema=schema_pb2.Schema(feature=[images]), enable_semantic_domain_stats=True)
    with beam.Pipeline(options=options) as pipeline:
        for split in SPLITS:
            records = tfxio.TFExampleRecord(str(examples / f"{split}-*.tfrecord"), telemetry_descriptors=["topgraft"])
            _ = (
                pipeline
                | f"Read {split} examples" >> records.BeamSource()
                | f"Compute {split} statistics" >> tfdv.GenerateStatistics(settings)
                | f"Write {split} statistics" >> tfdv.WriteStatisticsToTFRecord(str(_statistics_file(folder, split)))
            )


def infer_schema(
    statistics: statistics_pb2.DatasetFeatureStatisticsList, examples: Examples, split_skew: float
) -> schema_pb2.Schema:
    """Return the schema of the train split: every record a readable image of a known class, all splits alike."""
    smallest = min(examples.splits.values())
    schema = tfdv.infer_schema(statistics, max_string_domain_size=0)
    image = tfdv.get_feature(schema, features.ENCODED)
    image.image_domain.SetInParent()
    if smallest >= IMAGES_FOR_FORMATS:
        image.image_domain.minimum_supported_image_fraction = 1.0
    text = tfdv.get_feature(schema, features.TEXT)
    tfdv.set_domain(schema, features.TEXT, schema_pb2.StringDomain(name="classes", value=examples.labels))
    # A share among n images has a standard error of at most sqrt(1/4n); four of them are hardly chance.
    text.skew_comparator.infinity_norm.threshold = min(1.0, split_skew + 4 * math.sqrt(0.25 / smallest))
    label = tfdv.get_feature(schema, features.LABEL)
    label.int_domain.min, label.int_domain.max = 0, len(examples.labels) - 1
    schema.dataset_constraints.min_examples_count = 1
    return schema


def _load_schema(path: Path) -> schema_pb2.Schema:
    try:
        return tfdv.load_schema_text(str(path))
    except (OSError, text_format.ParseError) as error:
        raise UserError(
            f"Cannot read the schema '{path}' ({error}): validate.schema takes a TFDV schema.pbtxt."
        ) from error


def _find_anomalies(
    split: str, statistics: dict[str, statistics_pb2.DatasetFeatureStatisticsList], schema: schema_pb2.Schema
) -> anomalies_pb2.Anomalies:
    against_train = None if split == "train" else statistics["train"]
    return tfdv.validate_statistics(statistics[split], schema, serving_statistics=against_train)


def describe_anomalies(split: str, anomalies: anomalies_pb2.Anomalies) -> list[tuple[str, str]]:
    """Return (severity, sentence) of each anomaly of a split, the feature named first."""
    described = [
        (info, f"{split} split, {name}: {info.description or info.short_description}")
        for name, info in sorted(anomalies.anomaly_info.items())
    ]
    if anomalies.HasField("dataset_anomaly_info"):
        info = anomalies.dataset_anomaly_info
        described.append((info, f"{split} split: {info.description}"))
    return [
        (anomalies_pb2.AnomalyInfo.Severity.Name(info.severity), sentence.rstrip(".")) for info, sentence in described
    ]
