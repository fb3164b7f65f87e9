import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from toys import COLOURS, write_config

from components.backbones.precomputed import ImportedBottlenecks, read_vector
from components.backbones.spec import Spec
from components.errors import UserError
from components.export.versions import list_versions
from components.run_dir import RunDir
from pipeline.cli import main


@pytest.fixture(scope="session")
def images(toy_config):
    return Path(toy_config["data"]["path"])


def vector_of(key, dim=6):
    """A vector that tells the class but for some noise."""
    random = np.random.default_rng(list(key.encode()))
    return (np.eye(3, dim)[list(COLOURS).index(key.split("/")[0])] + random.normal(0, 0.2, dim)).astype(np.float32)


def write_texts(images, folder):
    """Write T5's layout: <class>/<image>.jpg.txt with comma-separated floats."""
    for file in images.rglob("*.*"):
        key = str(file.relative_to(images))
        path = folder / f"{key}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(",".join(map(str, vector_of(key))))
    return folder


def write_array(images, folder):
    """Write a .npy file and its list of keys."""
    folder.mkdir()
    keys = [str(file.relative_to(images)) for file in images.rglob("*.*")]
    np.save(folder / "x.npy", np.stack([vector_of(key) for key in keys]))
    (folder / "x.txt").write_text("".join(f"{key}\n" for key in keys))
    return folder / "x.npy"


@pytest.fixture
def run(toy_run, toy_config, tmp_path):
    """A function that runs the config of the toy run with another backbone, and the run, which begins as a copy."""
    shutil.copytree(toy_run.root, tmp_path / "run")

    def go(backbone, *arguments, **more):
        values = {**toy_config, "output_dir": str(tmp_path / "run"), "backbone": backbone, **more}
        return main(["run", str(write_config(tmp_path / "c.yaml", **values)), *arguments])

    return go, RunDir(tmp_path / "run")


@pytest.mark.parametrize("write", [write_texts, write_array])
def test_ready_made_bottlenecks_take_the_place_of_extraction(images, run, tmp_path, write):
    go, run_dir = run
    assert go({"bottlenecks": str(write(images, tmp_path / "vectors"))}) == 0
    record = json.loads(run_dir.record.read_text())
    assert record["backbone"]["dim"] == 6
    model = tf.saved_model.load(str(list_versions(run_dir.exports)[-1]))
    with run_dir.predictions.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for signature in ("bottleneck", "serving_default"):
        vectors = tf.constant(np.stack([vector_of(row["path"]) for row in rows]))
        index = model.signatures[signature](bottleneck=vectors)["index"].numpy().tolist()
        assert index == [int(row["index"]) for row in rows]


def test_with_the_network_that_they_came_from_images_can_be_served(images, run, tmp_path, toy_backbone):
    go, run_dir = run
    made = tmp_path / "made"
    keys, vectors = [], []
    from components.shards.bottlenecks import read_bottlenecks

    for file in sorted(run_dir.root.glob("bottlenecks/*/*.tfrecord")):
        table = read_bottlenecks([str(file)], 48)
        keys += table.keys
        vectors += list(table.vectors)
    for key, vector in zip(keys, vectors, strict=True):
        path = made / f"{key}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(",".join(map(repr, vector.tolist())))
    before = run_dir.predictions.read_bytes()
    assert go({**toy_backbone, "bottlenecks": str(made)}) == 0
    assert run_dir.predictions.read_bytes() == before
    export = list_versions(run_dir.exports)[-1]
    assert main(["predict", str(export), str(images / "cyan"), "--output", str(tmp_path / "p.csv")]) == 0


def test_predicting_images_without_a_network_is_refused(images, run, tmp_path, capsys):
    go, run_dir = run
    vectors = write_texts(images, tmp_path / "vectors")
    for stage in ("extract", "audit", "train", "export"):
        assert go({"bottlenecks": str(vectors)}, "--only", stage) == 0
    assert main(["predict", str(list_versions(run_dir.exports)[-1]), str(images)]) == 2
    assert "takes bottlenecks only" in capsys.readouterr().err


def test_an_image_without_its_bottleneck_is_named(images, run, tmp_path, capsys):
    go, _ = run
    folder = write_texts(images, tmp_path / "vectors")
    (folder / "cyan" / "camera" / "000.jpg.txt").unlink()
    assert go({"bottlenecks": str(folder)}) == 2
    error = capsys.readouterr().err.strip()
    assert "cyan/camera/000.jpg.txt" in error
    assert len(error.splitlines()) == 1


def test_views_of_images_that_are_not_looked_at_are_refused(images, run, tmp_path, capsys):
    go, _ = run
    made = write_texts(images, tmp_path / "made")
    assert go({"bottlenecks": str(made)}, augment={"flip": True}) == 2
    assert "ready-made bottlenecks have one" in capsys.readouterr().err


def test_a_network_of_another_width_is_refused(images, run, tmp_path, toy_backbone, capsys):
    go, _ = run
    assert go({**toy_backbone, "bottlenecks": str(write_texts(images, tmp_path / "vectors"))}) == 2
    assert "are 6 wide, those of" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "1,2,x", "1;2", "1,,2"])
def test_a_text_that_is_no_vector_is_named(tmp_path, text):
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(UserError, match=r"a.txt' .*comma-separated floats"):
        read_vector(tmp_path / "a.txt")


def test_an_array_with_a_wrong_list_or_shape_is_named(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((3, 2), np.float32))
    (tmp_path / "x.txt").write_text("a\nb\n")
    with pytest.raises(UserError, match=r"names 2 images, .* has 3 rows"):
        ImportedBottlenecks(Spec(bottlenecks=str(tmp_path / "x.npy")))
    np.save(tmp_path / "y.npy", np.array([{"a": 1}], object))
    with pytest.raises(UserError, match="y.npy"):
        ImportedBottlenecks(Spec(bottlenecks=str(tmp_path / "y.npy")))


def test_another_list_of_keys_gives_another_fingerprint(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((2, 3), np.float32))
    (tmp_path / "x.txt").write_text("a\nb\n")
    (tmp_path / "y.txt").write_text("b\na\n")
    array = str(tmp_path / "x.npy")
    own, other = Spec(bottlenecks=array), Spec(bottlenecks=array, keys=str(tmp_path / "y.txt"))
    assert ImportedBottlenecks(own).fingerprint() != ImportedBottlenecks(other).fingerprint()
