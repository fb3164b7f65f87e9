"""The config that images stand for: written, gone on from, and never over what a user wrote."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toys import paint_images, refusal

from components.run_dir import RunDir
from components.storage.ownership import read_mark
from components.storage.places import list_files
from pipeline.cli import main
from pipeline.load_config import load_config, read_values
from pipeline.run_lock import hold_run_dir
from pipeline.written_config import EXAMPLES, format_config, keep_config
from pipeline.yaml_text import parse_yaml


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return paint_images(tmp_path / "photos", per_class=2).relative_to(tmp_path)


RUN = RunDir(Path("runs/photos"))


def keep(place, *overrides, flags=()):
    """Do what a run does: write its config, then its first stage."""
    with hold_run_dir(RUN), keep_config(RUN, place, list(overrides), flags):
        RUN.stages.mkdir(exist_ok=True)


def test_a_run_goes_on_from_its_written_config_with_nothing_to_redo(toy_config, toy_run, tmp_path, capsys):
    run = RunDir(tmp_path / "run")
    shutil.copytree(toy_run.root, run.root)
    sections = {**toy_config, "output_dir": str(run.root)}
    images = sections.pop("data")["path"]
    overrides = [f"{key}={json.dumps(value)}" for key, value in sections.items()]
    for words in ([images, *overrides], [str(run.config)], [images, *overrides]):
        assert main(["run", *words]) == 0
        assert capsys.readouterr().out.count("as before") == 8
    written = load_config(run.config, [])
    assert written == load_config(Path(images), overrides)
    assert (written.train.epochs, written.name, written.data.path) == (8, "toy", images)


def test_a_new_run_over_a_folder_alone_is_gone_on_from(toy_config, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    paint_images(tmp_path, per_class=12)
    backbone = f"backbone={json.dumps(toy_config['backbone'])}"
    name = load_config(Path("."), []).name
    assert main(["run", ".", backbone, "train.epochs=2"]) == 0
    assert f"config: runs/{name}/config.yaml" in capsys.readouterr().out
    assert main(["run", f"runs/{name}/config.yaml"]) == 0
    assert capsys.readouterr().out.count("as before") == 8
    assert main(["run", ".", backbone, "train.epochs=3"]) == 0
    assert load_config(Path(f"runs/{name}/config.yaml"), []).train.epochs == 3


def test_the_file_has_every_override_and_flag(photos):
    flags = ["--direct_num_workers=2"]
    overrides = ["train.epochs=80", "head.hidden=[{units: 4}]", "output_dir=runs/photos", "preset=best", "train.l2=0"]
    keep(photos, *overrides, flags=flags)
    written = load_config(RUN.config, [])
    assert written == load_config(photos, overrides, flags)
    assert (written.train.epochs, written.preset, written.beam.options) == (80, "best", {"direct_num_workers": 2})
    assert read_mark(RUN.root) == {"config.yaml"}


def test_credentials_are_not_written(photos):
    keep(photos, "beam.s3_secret_access_key=hush", "beam.shards=2")
    text = RUN.config.read_text()
    assert "hush" not in text and "secret" not in text
    assert load_config(RUN.config, []).beam.shards == 2


def test_another_command_replaces_a_file_that_nobody_has_edited(photos):
    keep(photos, "train.epochs=3")
    keep(photos, "train.epochs=4")
    assert load_config(RUN.config, []).train.epochs == 4
    RUN.config.unlink()
    keep(photos)
    assert load_config(RUN.config, []).train.epochs is None


@pytest.mark.parametrize("edit", [lambda text: text.replace("#seed: 0", "seed: 7"), lambda text: text + "\n# mine\n"])
def test_an_edited_file_stays_and_is_named(photos, capsys, edit):
    keep(photos)
    edited = edit(RUN.config.read_text())
    RUN.config.write_text(edited)
    for command in ("run", "curve"):
        assert main([command, "photos"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "'runs/photos/config.yaml' has been edited and stays as it is: go on with topgraft run" in line
        assert RUN.config.read_text() == edited


@pytest.mark.parametrize("text", ["name: mine\n", "", "\xff"])
def test_a_config_of_the_user_in_place_of_the_written_one_stays(photos, text):
    keep(photos)
    RUN.config.write_text(text, encoding="latin-1")
    before = RUN.config.read_bytes()
    assert "stays as it is" in refusal(keep, photos)
    assert RUN.config.read_bytes() == before


def test_a_config_in_the_run_directory_that_is_no_file_of_the_run_stays(photos):
    with hold_run_dir(RUN):
        RUN.stages.mkdir()
    RUN.config.write_text("mine")
    assert "a file exists there that Topgraft did not write" in refusal(keep, photos)
    assert RUN.config.read_text() == "mine"
    RUN.config.unlink()
    RUN.config.mkdir()
    assert "Cannot read 'runs/photos/config.yaml'" in refusal(keep, photos)


def test_a_run_that_ends_before_its_first_stage_leaves_no_config(photos):
    def fail():
        with hold_run_dir(RUN), keep_config(RUN, photos, []):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert not RUN.root.exists()
    keep(photos)
    with pytest.raises(KeyboardInterrupt):
        fail()
    assert RUN.config.exists()


def test_a_config_has_no_config_written_for_it(photos):
    keep(photos)
    config = Path("mine.yaml")
    RUN.config.rename(config)
    keep(config)
    assert not RUN.config.exists()


def test_the_config_of_a_run_in_cloud_storage_is_beside_its_record(photos, remote):
    run = RunDir(remote / "run")
    for epochs in (3, 4):
        with hold_run_dir(run), keep_config(run, photos, [f"output_dir={run.root}", f"train.epochs={epochs}"]):
            (run.stages / "ingest.json").write_text("{}")
    assert load_config(run.config, []).train.epochs == 4


@pytest.mark.parametrize("key", EXAMPLES)
def test_a_key_behind_a_mark_is_set_when_the_mark_is_removed(photos, key):
    """A user removes '#' before a key and before its section."""
    section, _, inner = key.partition(".")
    lines = format_config(read_values(photos, [], ())).splitlines()
    places = [n for n, line in enumerate(lines) if line.lstrip("#").startswith(f"{section}:")]
    assert len(places) == 1
    lines[places[0]] = lines[places[0]].lstrip("#")
    if inner:
        (place,) = [n for n, line in enumerate(lines) if f"#{inner}:" in line or f"#  {inner}:" in line]
        lines[place] = lines[place].replace("#", "", 1)
    Path("c.yaml").write_text("\n".join(lines))
    written = parse_yaml(Path("c.yaml").read_text())
    assert (written[section][inner] if inner else written[section]) is not None
    load_config(Path("c.yaml"), [])


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts


@given(st.recursive(plain, lambda inner: st.lists(inner) | st.dictionaries(texts, inner), max_leaves=8))
def test_every_value_is_read_as_it_was_written(value):
    values = {"name": "x", "data": {"path": "p", "exclude": value}, "head": [value]}
    assert parse_yaml(format_config(values)) == values


@pytest.mark.parametrize(
    "text", ["no", "1e3", "0o17", "2024", "010", "1:30", "~", "", " x ", "a: b #c", "x\ny", "\u2028", "=", "<<"]
)
def test_text_that_looks_like_another_value_stays_text(text):
    values = {"name": text, "data": {"path": text}, "train": {"class_weight": {text: 1}}}
    assert parse_yaml(format_config(values)) == values


def test_init_writes_the_config_and_runs_nothing(photos, capsys):
    assert main(["init", "photos/", "preset=best", "evaluate.thresholds.accuracy=0.9"]) == 0
    assert capsys.readouterr().out == (
        "photos.yaml is written: change what you like, then go on with: topgraft run photos.yaml\n"
    )
    config = load_config(Path("photos.yaml"), [])
    assert config == load_config(photos, ["preset=best", "evaluate.thresholds.accuracy=0.9"])
    assert not Path("runs").exists()


def test_init_overwrites_no_file(photos, capsys):
    Path("photos.yaml").write_text("mine")
    before = list_files(Path())
    assert main(["init", "photos"]) == 2
    assert "'photos.yaml' exists and stays as it is: go on with topgraft run photos.yaml" in capsys.readouterr().err
    assert list_files(Path()) == before
    assert main(["init", "photos", "name=photos-2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"config": "photos-2.yaml"}


def test_init_of_a_config_is_refused(photos, capsys):
    assert main(["init", "photos.yaml"]) == 2
    assert "'photos.yaml' is a config already" in capsys.readouterr().err
