"""Records of shards, as tests read them."""

import os

import tensorflow as tf

from components import features
from components.backbones.settings import Augment
from components.backbones.spec import parse_backbone
from components.extract.extract import extract_bottlenecks
from components.extract.settings import EngineChoice

PLAIN = Augment()


def read_records(run):
    """Return {key: (split, {feature: value})} of all shards, each of which must be sorted by key."""
    found = {}
    for file in sorted(run.examples.glob("*.tfrecord")):
        keys = []
        for serialized in tf.data.TFRecordDataset(str(file)).as_numpy_iterator():
            record = tf.train.Example.FromString(serialized)
            values = {k: (v.bytes_list.value or v.int64_list.value)[0] for k, v in record.features.feature.items()}
            keys.append(values[features.KEY])
            found[os.fsdecode(values[features.KEY])] = (file.name.split("-")[0], values)
        assert keys == sorted(keys)
    return found


def compute(examples, backbone, run, options, progress, augment=PLAIN):
    specs = parse_backbone(backbone)
    return extract_bottlenecks(examples, specs, EngineChoice(), augment, run, options, progress)
