"""An output_dir that meets the data is refused before anything is written."""

import os

import pytest
from toys import paint_images, refusal, write_config, write_toy_graph

from components.storage.ownership import write_mark
from components.storage.places import list_files
from pipeline.cli import main
from pipeline.load_config import load_config
from pipeline.pipeline import list_data


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with images of classes, a manifest of them, a network, labels and a former run."""
    folder = tmp_path_factory.mktemp("place")
    paint_images(folder / "images", per_class=6)
    rows = [f"../images/{key},{key.partition('/')[0]}\n" for key in list_files(folder / "images")]
    (folder / "files").mkdir()
    (folder / "files" / "all.csv").write_text("path,label\n" + "".join(rows))
    (folder / "files" / "labels.txt").write_text("cyan\nmagenta\nyellow\n")
    (folder / "networks").mkdir()
    write_toy_graph(folder / "networks" / "toy.pb")
    (folder / "former" / "validation").mkdir(parents=True)
    (folder / "link").symlink_to(folder / "images")
    return folder


def load(tmp_path, output, **values):
    """Load a config with an output_dir."""
    values = {"data": {"path": "images"}, **values}
    return load_config(write_config(tmp_path / "c.yaml", name="t", output_dir=str(output), **values), [])


TOY = {"frozen_graph": "networks/toy.pb", "input": "input", "bottleneck": "features"}


@pytest.mark.parametrize(
    "output, relation, values",
    [
        ("images", "is", {}),
        ("link", "is", {}),
        (".", "contains", {}),
        ("/", "contains", {}),
        ("images/../../{name}", "contains", {}),
        ("images/run", "is inside", {}),
        ("link/run", "is inside", {}),
        ("images/cyan", "is inside", {}),
        ("images/runs", "is inside", {}),
        ("images/runs/../run", "is inside", {}),
        ("images/run", "is inside", {"data": {"path": ["former", "images"]}}),
        ("files", "contains", {"data": {"path": "files/all.csv"}}),
        ("files", "contains", {"data": {"path": "images", "labels": "files/labels.txt"}}),
        ("networks", "contains", {"backbone": TOY}),
        ("networks", "contains", {"curve": {"backbones": [TOY]}}),
        ("former", "is", {"validation": {"baseline": "former"}}),
        ("former/new", "is inside", {"validation": {"baseline": "former"}}),
        ("former", "contains", {"validation": {"schema": "former/validation/schema.pbtxt"}}),
        ("former", "is", {"train": {"warm_start": "former"}}),
    ],
)
def test_an_output_dir_that_meets_what_is_read_is_refused(place, tmp_path, monkeypatch, output, relation, values):
    monkeypatch.chdir(place)
    before = list_files(place)
    message = refusal(lambda: load(tmp_path, output.format(name=place.name), **values))
    assert f"' {relation} '" in message
    assert "set output_dir to a folder apart" in message
    assert list_files(place) == before


@pytest.mark.parametrize("output", ["run", "images/runs/t", "images-2", "files/run", "former-2"])
def test_an_output_dir_apart_is_taken(place, tmp_path, monkeypatch, output):
    monkeypatch.chdir(place)
    load(tmp_path, output, validation={"baseline": "former"})


def test_runs_below_the_images_are_no_class(place, tmp_path, monkeypatch, progress):
    monkeypatch.chdir(place)
    before = list_data(load(tmp_path, "images/runs/t"), progress).fingerprint()
    paint_images(place / "images" / "runs" / "t", per_class=1)
    write_mark(place / "images" / "runs" / "t", ())
    assert list_data(load(tmp_path, "images/runs/t"), progress).fingerprint() == before
    assert list_data(load(tmp_path, "images/runs/other"), progress).fingerprint() == before
    several = load(tmp_path, "images/runs/t", data={"path": ["images", "link"]})
    assert {file.text for file in list_data(several, progress).files} == {"cyan", "magenta", "yellow"}


def test_a_class_named_runs_is_not_left_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paint_images(tmp_path, per_class=2)
    (tmp_path / "cyan").rename(tmp_path / "runs")
    message = refusal(lambda: load(tmp_path, "runs/t", data={"path": "."}))
    assert "contains '" in message
    assert "would leave it out" in message


def test_an_image_of_a_manifest_in_the_run_directory_is_named(tmp_path, progress):
    paint_images(tmp_path / "run" / "images", per_class=1)
    rows = [f"run/images/{key},{key[0]}\n" for key in list_files(tmp_path / "run" / "images")]
    (tmp_path / "m.csv").write_text("path,label\n" + "".join(rows))
    config = load(tmp_path, tmp_path / "run", data={"path": str(tmp_path / "m.csv")})
    assert "is in the output_dir" in refusal(list_data, config, progress)


@pytest.mark.parametrize("command", ["run", "curve"])
def test_a_folder_of_images_is_as_it_was_after_a_refusal(tmp_path, monkeypatch, capsys, command):
    """Case: output_dir '.' among train, validation and test removed 12 of 48 images."""
    monkeypatch.chdir(tmp_path)
    for split in ("train", "validation", "test"):
        paint_images(tmp_path / split, per_class=4)
    write_config(tmp_path / "c.yaml", name="t", output_dir=".", data={"path": "."})
    before = list_files(tmp_path)
    assert main([command, "c.yaml"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert list_files(tmp_path) == before


@pytest.mark.parametrize("name", ["model", "report", "examples/mine.tfrecord", ".git/HEAD"])
def test_a_folder_with_files_that_no_run_wrote_is_refused(place, tmp_path, capsys, name):
    project = tmp_path / "project"
    (project / name).parent.mkdir(parents=True, exist_ok=True)
    (project / name).write_text("mine")
    config = write_config(tmp_path / "c.yaml", name="t", output_dir=str(project), data={"path": str(place / "images")})
    for command in ("run", "curve", "plan"):
        assert main([command, str(config), "--quiet"]) == 2
        assert "is no run directory" in capsys.readouterr().err
    assert [*list_files(project)] == [name]
    assert os.listdir(project) == [name.partition("/")[0]]
