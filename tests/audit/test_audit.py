import csv
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from components import features
from components.audit.audit import audit_bottlenecks
from components.audit.label_errors import LEAST_MARGIN
from components.audit.settings import AuditLimits
from components.audit.tables import LabelRow, PairRow
from components.extract.write_shards import bottleneck_record
from components.outcomes import Audit, Bottlenecks, Work
from components.run_dir import RunDir
from components.shards.names import Shard
from components.shards.records import writing_shards
from components.shards.spans import assign_shard, hash_fraction

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
        limits = AuditLimits(near_duplicate, max_images)
        outcome = audit_bottlenecks(examples, Bottlenecks(Work(), "toy", "id", DIM), limits, run)
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
    assert audit(draw_images()) == (Audit(Work(90, computed=90), 0, 0, 0, []), [], [])


def test_pairs_are_classified_by_class_and_split(audit):
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


@pytest.mark.parametrize(("other", "leaked"), [("train", True), ("val", True), ("test", False)])
def test_a_test_image_like_one_that_the_model_may_be_trained_on_is_a_leak(audit, tmp_path, other, leaked):
    images = draw_images()
    images["ant/a.jpg"] = ("ant", other, images["ant/01.jpg"][2] + np.float32(5))
    images["ant/b.jpg"] = ("ant", "test", images["ant/a.jpg"][2] * np.float32(1.0001))
    audit(images)
    rows = (tmp_path / "run" / "audit" / "leaks.csv").read_text().splitlines()[1:]
    assert rows == (["ant/b.jpg"] if leaked else [])


def test_of_more_pairs_than_the_table_holds_all_count(audit, tmp_path):
    """150 frames of one scene have 11,175 pairs; the labels are judged as if they were one image."""
    images, random = draw_images(), np.random.default_rng(1)
    scene = images["ant/01.jpg"][2]
    for number in range(149):
        split = "test" if number < 40 else "val" if number < 60 else "train"
        frame = scene + np.float32(0.02) * random.normal(size=DIM).astype(np.float32)
        images[f"ant/frame {number:03d}.jpg"] = ("ant", split, frame)
    outcome, pairs, _ = audit(images)
    assert outcome.near_duplicates == 150 * 149 // 2 == 11_175
    assert len(pairs) == 10_000
    assert outcome.leaks == 11_175 - sum(n * (n - 1) // 2 for n in (40, 20, 90))
    with (tmp_path / "run" / "audit" / "leaks.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["path"]
    assert sorted(row[0] for row in rows) == [f"ant/frame {number:03d}.jpg" for number in range(40)]
    assert outcome.warnings == []


def test_images_of_two_classes_with_equal_bottlenecks_are_counted_and_the_first_two_named(audit):
    images = draw_images()
    images["bee/like ant.jpg"] = ("bee", "train", images["ant/01.jpg"][2])
    images["cat/like bee.jpg"] = ("cat", "test", images["bee/02.jpg"][2])
    images["cat/like cat.jpg"] = ("cat", "test", images["cat/02.jpg"][2])
    assert audit(images)[0].warnings == [
        "4 images of different classes have equal bottlenecks, so the model cannot distinguish them: the first are "
        "'ant/01.jpg' (ant) and 'bee/like ant.jpg' (bee)."
    ]


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


def test_a_sample_is_audited_as_if_there_were_no_other_images_and_the_warnings_say_so(audit):
    images = draw_images()
    for key in [*images]:
        text, split, vector = images[key]
        images[key.replace(".", " copy.")] = ("ant", split, vector * np.float32(1.01))
    sampled, *tables = audit(images, max_images=120)
    drawn = {key: row for key, row in images.items() if hash_fraction(key, "sample") < 120 / len(images)}
    assert 60 < len(drawn) < len(images)
    alone, *expected = audit(drawn)
    assert tables == expected and tables[0] and tables[1]
    sentence, *others = sampled.warnings
    assert others == alone.warnings
    assert sampled == replace(alone, work=Work(180, computed=len(drawn)), warnings=sampled.warnings)
    assert f"a sample of {len(drawn)} of 180 images" in sentence
