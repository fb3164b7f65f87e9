import csv
from dataclasses import astuple
from types import SimpleNamespace

import numpy as np
import pytest

from components import features
from components.audit import LabelRow, PairRow, audit_bottlenecks
from components.bottleneck_shards import bottleneck_record
from components.features import Audit, Bottlenecks, RunDir, Shard, Work
from components.label_issues import LEAST_MARGIN
from components.sharding import assign_shard, hash_fraction
from components.shards import writing_shards

DIM, CLASSES, PER_CLASS = 32, ("ant", "bee", "cat"), 30


def draw_images():
    """Return {key: (class, split, vector)} of three clusters, every fifth image for test, every seventh for val."""
    random = np.random.default_rng(0)
    centres = random.normal(size=(len(CLASSES), DIM))
    images = {}
    for label, name in enumerate(CLASSES):
        for number in range(PER_CLASS):
            split = "test" if number % 5 == 0 else "val" if number % 7 == 0 else "train"
            vector = centres[label] + random.normal(size=DIM)
            images[f"{name}/{number:02d}.jpg"] = (name, split, vector.astype(np.float32))
    return images


@pytest.fixture
def audit(tmp_path):
    """Return a function that writes images as bottleneck shards and audits them; it gives (outcome, pairs, labels)."""

    def write_and_audit(images, near_duplicate=0.95, max_images=1000):
        run = RunDir(tmp_path / "run")
        keys = sorted(images)
        for shard in range(2):
            with writing_shards(run.bottlenecks("id"), Shard(shard, 2)) as write:
                for key in keys:
                    if assign_shard(key, 2) != shard:
                        continue
                    text, split, vector = images[key]
                    record = {
                        features.KEY: key.encode("utf-8", "surrogateescape"),
                        features.SHA256: vector.tobytes().hex().encode(),
                        features.LABEL: CLASSES.index(text),
                        features.TEXT: text.encode(),
                        features.SOURCE: b"",
                    }
                    write[split](bottleneck_record(record, vector[None], vector))
        examples = SimpleNamespace(labels=list(CLASSES), shards=[2], written=len(images))
        outcome = audit_bottlenecks(examples, Bottlenecks(Work(), "toy", "id", DIM), run, near_duplicate, max_images)
        assert outcome.folder(run) == run.audit
        return outcome, *(read_csv(run.audit / name) for name in ("near_duplicates.csv", "suspicious_labels.csv"))

    return write_and_audit


def read_csv(path):
    with open(path, encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    kind = PairRow if header[0] == "cosine" else LabelRow
    assert tuple(header) == kind._fields
    return [kind(*row) for row in rows]


def test_clean_data_has_empty_tables(audit):
    assert audit(draw_images()) == (Audit(Work(90, computed=90), 0, 0, 0, 90), [], [])


def test_pairs_are_told_apart_by_class_and_split(audit):
    images = draw_images()
    vector = {key: row[2] for key, row in images.items()}
    images["ant/copy.jpg"] = ("ant", "train", vector["ant/01.jpg"])
    images["bee/leak.jpg"] = ("bee", "test", vector["bee/01.jpg"] + np.float32(0.05) * vector["ant/01.jpg"])
    images["cat/conflict.jpg"] = ("cat", "train", vector["bee/02.jpg"] + np.float32(0.08) * vector["ant/01.jpg"])
    images["cat/both.jpg"] = ("cat", "test", vector["bee/03.jpg"] + np.float32(0.11) * vector["ant/01.jpg"])
    outcome, pairs, _ = audit(images)
    described = [({row.path, row.other_path}, row.kind) for row in pairs]
    assert described == [
        ({"bee/01.jpg", "bee/leak.jpg"}, "leak"),
        ({"bee/02.jpg", "cat/conflict.jpg"}, "label_conflict"),
        ({"bee/03.jpg", "cat/both.jpg"}, "label_conflict"),
        ({"ant/01.jpg", "ant/copy.jpg"}, "copy"),  # the closest, yet the least harm
    ]
    for row in pairs:
        for path, label, split in (
            (row.path, row.label, row.split),
            (row.other_path, row.other_label, row.other_split),
        ):
            assert images[path][:2] == (label, split)
    assert pairs[-1].cosine == "1.0000"
    assert (outcome.near_duplicates, outcome.leaks) == (4, 2)


def test_a_wrong_label_is_named_whatever_its_split(audit):
    images = draw_images()
    for key in ("ant/05.jpg", "ant/07.jpg", "ant/08.jpg"):
        images[key] = ("cat", *images[key][1:])
    outcome, _, labels = audit(images)
    assert {(row.path, row.label, row.split, row.suggested) for row in labels} == {
        ("ant/05.jpg", "cat", "test", "ant"),
        ("ant/07.jpg", "cat", "val", "ant"),
        ("ant/08.jpg", "cat", "train", "ant"),
    }
    for row in labels:
        assert 0 <= float(row.label_confidence) <= float(row.suggested_confidence) - LEAST_MARGIN + 0.001 <= 1
    assert outcome.suspicious == 3


def test_the_threshold_decides_what_is_a_pair(audit):
    images = draw_images()
    vector = images["bee/01.jpg"][2]
    images["bee/near.jpg"] = ("bee", "train", vector + np.float32(0.15) * images["cat/01.jpg"][2])
    assert audit(images, near_duplicate=0.9999)[0].near_duplicates == 0
    assert audit(images, near_duplicate=0.9)[0].near_duplicates == 1


def test_empty_splits_and_odd_names_are_no_trouble(audit):
    images = {key: (text, "train", vector) for key, (text, _, vector) in draw_images().items()}
    images["ant/odd,\udcff\n.jpg"] = ("ant", "train", images["ant/01.jpg"][2])
    outcome, pairs, _ = audit(images)
    assert outcome.work.items == 91
    assert {pairs[0].path, pairs[0].other_path} == {"ant/01.jpg", "ant/odd,\\udcff\n.jpg"}


def test_a_sample_is_audited_as_if_there_were_no_other_images_and_said_to_be_one(audit):
    images = draw_images()
    for key in [*images]:
        text, split, vector = images[key]
        images[key.replace(".", " copy.")] = ("ant", split, vector * np.float32(1.01))
    sampled, *tables = audit(images, max_images=120)
    drawn = {key: row for key, row in images.items() if hash_fraction(key, "sample") < 120 / len(images)}
    assert 60 < len(drawn) < len(images)
    alone, *expected = audit(drawn)
    assert tables == expected and tables[0] and tables[1]
    assert sampled == Audit(Work(180, computed=len(drawn)), *astuple(alone)[1:])
    assert f"a sample of {len(drawn)} of 180 images" in sampled.warnings[0] and not alone.warnings
