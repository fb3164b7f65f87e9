"""Images in place of a config: what they stand for, and what is refused."""

import os
from pathlib import Path

import pytest
from toys import fill, paint_images, refusal

from components.errors import UserError
from components.storage.ownership import write_mark
from components.storage.places import as_path
from pipeline.cli import main
from pipeline.data_place import is_config, name_place
from pipeline.load_config import load_config


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("/data/photos", "photos"),
        ("/data/photos.csv", "photos"),
        ("/data/photos.v2", "photos.v2"),
        ("/data/Photos.JSONL", "Photos"),
        ("/data/My photos (2024)", "My_photos_2024"),
        ("/data/2024", "2024"),
        ("/data/.hidden", "hidden"),
        ("/data/-x", "x"),
        ("/data/é\u0301चि", "é\u0301चि"),
        ("/data/a'b\n$(c)", "a_b_c"),
        ("/data/caf\udce9", "caf"),
        ("/data/flowers-train.tfrecord-00000-of-00002", "flowers-train"),
        ("/data/flowers/*.tfrecord*", "flowers"),
        ("/data/***", "data"),
        ("gs://bucket/photos", "photos"),
        ("gs://bucket", "bucket"),
        ("/", "images"),
    ],
)
def test_a_run_has_the_name_of_its_folder_or_file_as_a_valid_folder_name(place, name):
    assert name_place(place) == name


@pytest.mark.parametrize("place", ["a.yaml", "b/a.yml", "A.YAML", "gs://bucket/a.yaml"])
def test_a_config_is_known_by_its_suffix(place):
    assert is_config(as_path(place))
    assert not is_config(as_path(place).with_suffix(".csv"))


def test_a_folder_stands_for_a_run_over_its_absolute_path(here):
    paint_images(here / "photos", per_class=1)
    config = load_config(Path("photos/"), ["train.epochs=3", "preset=fast"])
    assert (config.name, config.run_folder) == ("photos", Path("runs/photos"))
    assert config.data.path == str(here / "photos")
    assert (config.train.epochs, config.preset) == (3, "fast")
    assert load_config(Path("photos"), ["name=birds"]).run_folder == Path("runs/birds")


def test_a_path_in_cloud_storage_stays_as_it_is(remote):
    (remote / "photos" / "cat" / "1.jpg").write_bytes(b"x")
    assert load_config(remote / "photos", []).data.path == str(remote / "photos")


def test_the_current_folder_can_be_the_data(here, capsys):
    paint_images(here, per_class=1)
    config = load_config(Path("."), [])
    assert (config.name, config.data.path) == (name_place(str(here)), str(here))


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("nowhere", "There is no 'nowhere': give a folder with one sub-folder of images per class"),
        ("notes.txt", "'notes.txt' is a file, but neither a config nor a manifest: give a folder"),
        ("photo.jpg", "neither a config nor a manifest"),
        ("config.json", "or a config that ends in .yaml"),
        ("photos.zip", "is an archive: unpack it"),
        ("empty", "has no image in any sub-folder, row or record: give a folder"),
        ("flat", "give a folder with one sub-folder of images per class"),
        ("one", "has the single class"),
        ("no.csv", "There is no 'no.csv'"),
        ("no-*.tfrecord", "no-*.tfrecord"),
        ("former", "'former' is a run directory: go on with its config, such as topgraft run former/config.yaml"),
        ("missing.yaml", "Cannot read the config 'missing.yaml'"),
    ],
)
def test_a_place_without_data_is_one_sentence_and_leaves_nothing(here, capsys, place, words):
    fill(here, "notes.txt", "photo.jpg", "config.json", "photos.zip", "flat/1.jpg", "one/cat/1.jpg", "former/x/1.jpg")
    (here / "empty").mkdir()
    write_mark(here / "former", ())
    assert main(["run", place]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("topgraft: ") and words in line
    assert not (here / "runs").exists() or not any((here / "runs").iterdir())


@pytest.mark.parametrize("command", ["run", "curve", "plan", "init"])
@pytest.mark.parametrize("words", [[], ["train.epochs=3"], ["--quiet"]])
def test_a_command_without_a_place_says_what_to_give(capsys, command, words):
    assert main([command, *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        f"topgraft: Give images or a config first, such as topgraft {command} photos/, where photos/ has one "
        f"sub-folder of images per class."
    )


def test_a_name_that_is_not_unicode_is_refused(here):
    os.makedirs(os.fsencode(here) + b"/caf\xe9/cat")
    assert "is not Unicode" in refusal(load_config, here / os.fsdecode(b"caf\xe9"), [])


def test_a_second_place_of_data_is_refused(here):
    paint_images(here / "photos", per_class=1)
    assert "'photos' and data.path=other name two places" in refusal(load_config, Path("photos"), ["data.path=other"])


def test_a_wrong_key_names_the_command_line(here):
    paint_images(here / "photos", per_class=1)
    with pytest.raises(UserError, match=r"did you mean 'train'.* \(command line\)\.$"):
        load_config(Path("photos"), ["trian.epochs=3"])


@pytest.mark.parametrize("recorded", ["run.json", "config.yaml"])
def test_a_run_over_other_data_of_the_same_name_is_refused(here, recorded, capsys):
    for folder in ("a/photos", "b/photos"):
        paint_images(here / folder, per_class=1)
    run = here / "runs" / "photos"
    run.mkdir(parents=True)
    write_mark(run, [recorded])
    (run / recorded).write_text(
        f'{{"config": {{"data": {{"path": "{here}/a/photos"}}}}}}'
        if recorded == "run.json"
        else f"name: photos\ndata: {{path: {here}/a/photos}}\n"
    )
    for command in ("run", "curve", "plan", "init"):
        assert main([command, "b/photos"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"'runs/photos' has the run over '{here}/a/photos', not over '{here}/b/photos'" in line
        assert "such as name=photos-2" in line
    assert load_config(Path("a/photos"), []).name == "photos"
    assert load_config(Path("b/photos"), ["name=photos-2"]).name == "photos-2"
    os.symlink(here / "a", here / "link")
    assert load_config(Path("link/photos"), []).name == "photos"


@pytest.mark.parametrize(
    "record", ['{"config": {"data": {"path": null, "source": "digits"}}}', '{"config": {"data": {"path": ["a", "b"]}}}']
)
def test_a_run_over_a_named_data_set_or_several_folders_is_another(here, record):
    paint_images(here / "digits", per_class=1)
    fill(here, "runs/digits/run.json", content=record.encode())
    assert "'runs/digits' has the run over '" in refusal(load_config, Path("digits"), [])


@pytest.mark.parametrize("record", ["", "[]", "{}", '{"config": 3}', '{"config": {"data": {"path": 3}}}'])
def test_a_damaged_record_names_no_data(here, record):
    paint_images(here / "photos", per_class=1)
    fill(here, "runs/photos/run.json", content=record.encode())
    assert load_config(Path("photos"), []).name == "photos"
