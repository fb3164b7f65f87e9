"""The schema of the data, and what deviates from it or from a baseline."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import tensorflow_data_validation as tfdv
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import anomalies_pb2, schema_pb2, statistics_pb2

from components import features
from components.errors import UserError
from components.features import SPLITS
from components.run_dir import RunDir
from components.validate.settings import Gate

# A column for statistics alone. TFDV's divergence of numbers compares histograms with different edges, so two random
# halves of photos that are 240 or 320 pixels wide differ.
SIZE_CLASS = "image/size"


def infer_schema(
    statistics: Mapping[str, statistics_pb2.DatasetFeatureStatisticsList],
    previous: statistics_pb2.DatasetFeatureStatisticsList | None,
    labels: Sequence[str],
    gate: Gate,
) -> schema_pb2.Schema:
    """Return the schema of the train split: every record is a readable image of a known class, all splits alike.

    previous holds the statistics of the train split of the baseline.
    """
    train, *others = (statistics[split].datasets[0].num_examples for split in SPLITS)
    before = previous.datasets[0].num_examples if previous else train
    schema = tfdv.infer_schema(statistics["train"], max_string_domain_size=0)
    tfdv.set_domain(schema, features.TEXT, schema_pb2.StringDomain(name="classes", value=labels))
    for name in (features.TEXT, features.FORMAT, SIZE_CLASS):
        feature = tfdv.get_feature(schema, name)
        feature.skew_comparator.infinity_norm.threshold = min(1.0, gate.split_skew + _allow_chance(train, min(others)))
        feature.drift_comparator.infinity_norm.threshold = min(1.0, gate.drift + _allow_chance(train, before))
    label = tfdv.get_feature(schema, features.LABEL)
    label.int_domain.min, label.int_domain.max = 0, len(labels) - 1
    schema.dataset_constraints.min_examples_count = 1
    return schema


def _allow_chance(images: int, others: int) -> float:
    # A fraction of n images has a variance of at most 1/4n, and the difference of two fractions has the sum of their
    # variances. A difference of four standard errors is hardly chance.
    return 4 * math.sqrt(0.25 / images + 0.25 / others)


def describe_changes(baseline: RunDir, labels: Sequence[str]) -> list[str]:
    """Return a sentence on the classes that the baseline does not have, and one on its classes that are missing now."""
    before = baseline.labels.read_text(encoding="utf-8", errors="surrogateescape").split("\n")[:-1]
    changes = {"New": sorted(set(labels) - set(before)), "Vanished": sorted(set(before) - set(labels))}
    return [
        f"{word} since '{baseline.root}': class{'es' if len(names) > 1 else ''} {', '.join(map(repr, names))}."
        for word, names in changes.items()
        if names
    ]


def load_schema(path: Path) -> schema_pb2.Schema:
    """Return the schema of a file without the images, as the statistics have none: ingest has decoded each of them."""
    try:
        schema = tfdv.load_schema_text(str(path))
    except (OSError, text_format.ParseError) as error:
        raise UserError(
            f"Cannot read the schema '{path}' ({error}): validation.schema takes a TFDV schema.pbtxt."
        ) from error
    kept = [feature for feature in schema.feature if feature.name != features.ENCODED]
    del schema.feature[:]
    schema.feature.extend(kept)
    return schema


def describe_anomalies(split: str, anomalies: anomalies_pb2.Anomalies) -> list[tuple[str, str]]:
    """Return (severity, sentence) for each anomaly of a split, the sentence without its full stop."""
    infos = [(f"{split} split, {name}", info) for name, info in sorted(anomalies.anomaly_info.items())]
    if anomalies.HasField("dataset_anomaly_info"):
        infos.append((f"{split} split", anomalies.dataset_anomaly_info))
    severity_of = anomalies_pb2.AnomalyInfo.Severity.Name
    return [
        (severity_of(info.severity), f"{place}: {info.description or info.short_description}".rstrip("."))
        for place, info in infos
    ]
