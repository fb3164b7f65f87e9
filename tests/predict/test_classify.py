import csv

import numpy as np
import pytest
from toys import paint_images, shared_data

from components.backbones import spec
from components.backbones.imagenet import class_names
from pipeline.cli import main


@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"])
def test_the_embedded_backbones_know_imagenet(name, tmp_path):
    folder = shared_data("imagenet_val_sample")
    with (folder / "labels.csv").open(newline="") as file:
        truth = {row["file"]: int(row["index"]) for row in csv.DictReader(file)}
    output = tmp_path / "out.csv"
    images = next(path for path in folder.rglob("*.JPEG")).parent
    assert main(["classify", str(images), "--backbone", name, "--output", str(output)]) == 0
    names = [label.split(",")[0] for label in class_names(1000)]
    with output.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["path"].endswith(".JPEG")]
    assert len(rows) == len(truth) == 300
    wanted = [names[truth[row["path"].rsplit("/", 1)[1]]] for row in rows]
    first = np.mean([truth[row["path"].rsplit("/", 1)[1]] == int(row["index"]) for row in rows])
    ranks = ["label", "label_2", "label_3", "label_4", "label_5"]
    among = np.mean([name in [row[rank] for rank in ranks] for row, name in zip(rows, wanted, strict=True)])
    print(f"{name}: top-1 {first:.4f}, top-5 {among:.4f}")
    assert first >= 0.66
    assert among >= 0.87


def test_names_are_the_tutorials_ones():
    names = class_names(1000)
    assert names[388].startswith("giant panda")
    assert names[51] == "triceratops"
    assert class_names(1001)[0] == "background" and class_names(1001)[389] == names[388]
    assert class_names(7) == ()


def test_a_backbone_without_classes_is_refused(tmp_path, capsys, toy_backbone, monkeypatch):
    paint_images(tmp_path, 1)
    monkeypatch.setattr(
        "components.backbones.spec._parse_name",
        lambda text: spec._parse_mapping(toy_backbone),
    )
    assert main(["classify", str(tmp_path), "--backbone", "toy"]) == 2
    assert "has no classes of its own" in capsys.readouterr().err
