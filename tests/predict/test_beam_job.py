import json
import os
from pathlib import Path

import pytest
from toys import encode_noise, paint_images

from components.export.versions import list_versions
from components.predict.beam_job import NAMES_FILE, FileRange, divide_files, join_outputs, predict_by_beam
from components.predict.predict import PREDICTION_BATCH
from pipeline.cli import main


@pytest.fixture(scope="module")
def export(toy_run):
    return str(list_versions(toy_run.exports)[-1])


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Ninety images, some of odd names and some that are none, so that the last batch is a short one."""
    folder = paint_images(tmp_path_factory.mktemp("job") / "images", per_class=30, seed=5)
    (folder / "cyan" / "bad.jpg").write_bytes(b"\xff\xd8\xff no")
    (folder / "cyan" / "=1+1.png").write_bytes(encode_noise(1)[0])
    (folder / "yellow" / "a text.txt").write_bytes(b"text")
    for name, content in ((b"\xff.png", encode_noise(1)[0]), (b"\xff.jpg", b"\xff\xd8\xff no")):
        (folder / "yellow" / os.fsdecode(name)).write_bytes(content)
    return folder


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
@pytest.mark.parametrize("shards", [1, 2, 7])
def test_a_job_writes_the_very_file_of_the_plain_path(export, images, tmp_path, capsys, suffix, shards):
    plain, joined = tmp_path / f"plain{suffix}", tmp_path / f"joined{suffix}"
    assert main(["predict", export, str(images), "--output", str(plain)]) == 0
    plain_errors = capsys.readouterr().err
    beam = ["--beam", "runner=DirectRunner", "--beam", f"shards={shards}"]
    assert main(["predict", export, str(images), "--output", str(joined), *beam]) == 0
    assert capsys.readouterr().err == plain_errors
    assert "92 predicted, 3 unreadable" in plain_errors
    assert joined.read_bytes() == plain.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([plain.name, joined.name])


def test_json_has_the_counts(export, images, tmp_path, capsys):
    output = tmp_path / "out.csv"
    command = ["predict", export, str(images / "cyan"), "--output", str(output), "--beam", "shards=1", "--json"]
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out) == {"predicted": 31, "unreadable": 1, "output": str(output)}


def test_where_nothing_can_be_read_the_table_is_empty_and_the_status_0(export, tmp_path, capsys):
    for number in range(3):
        (tmp_path / f"{number}.jpg").write_bytes(b"no image")
    paths = [str(tmp_path / f"{number}.jpg") for number in range(3)]
    for name, beam in (("plain.csv", []), ("job.csv", ["--beam", "shards=2"])):
        assert main(["predict", export, *paths, "--output", str(tmp_path / name), *beam]) == 0
        assert "0 predicted, 3 unreadable" in capsys.readouterr().err
    header = (tmp_path / "plain.csv").read_text()
    assert header.startswith("path,label,") and len(header.splitlines()) == 1
    assert (tmp_path / "job.csv").read_text() == header


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--output", "x.html", "--beam", "shards=1"], "cannot write to 'x.html'"),
        (["--beam", "shards=1"], "cannot write to the terminal"),
        (["--output", "x.csv", "--beam", "runer=x"], "did you mean 'beam.runner'"),
        (["--output", "x.csv", "--beam", "shards=0"], "'beam.shards' is 0"),
        (["--output", "x.csv", "--beam", "shards"], "expected key=value"),
    ],
)
def test_what_a_job_cannot_do_is_one_sentence_and_status_2(
    export, images, tmp_path, monkeypatch, capsys, arguments, words
):
    monkeypatch.chdir(tmp_path)
    assert main(["predict", export, str(images), *arguments]) == 2
    errors = capsys.readouterr().err
    assert words in errors and len(errors.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_is_none_is_refused_before_the_job_starts(images, tmp_path, capsys):
    command = ["predict", "nowhere", str(images), "--output", str(tmp_path / "x.csv"), "--beam", "shards=1"]
    assert main(command) == 2
    assert "does not exist" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("count", [1, PREDICTION_BATCH, PREDICTION_BATCH + 1, 10 * PREDICTION_BATCH - 3])
@pytest.mark.parametrize("shards", [None, 1, 3, 50])
def test_shards_are_whole_batches_that_hold_each_name_once_in_order(tmp_path, count, shards):
    names = [f"{number}\n\udcff.png" for number in range(count)]
    listed = divide_files(iter(names), tmp_path / NAMES_FILE, shards)
    assert len(listed) <= (shards or 1)
    assert all(shard.first % PREDICTION_BATCH == 0 for shard in listed)
    found = []
    for shard in listed:
        assert shard.first == len(found)
        with open(tmp_path / NAMES_FILE) as file:
            file.seek(shard.offset)
            found += [json.loads(file.readline()) for _ in range(shard.images)]
    assert found == names


def test_shards_join_by_number_with_one_header(tmp_path):
    for number in (0, 32, 1_000_000):
        (tmp_path / f"{FileRange(number, 0, 1).stem}.csv").write_text(f"path\n{number}\n")
    join_outputs(sorted(tmp_path.iterdir()), tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text() == "path\n0\n32\n1000000\n"


def test_a_job_that_fails_leaves_the_old_file_and_nothing_else(export, tmp_path, options, monkeypatch):
    output = tmp_path / "out.csv"
    output.write_text("old")

    def fail(shards, output):
        raise KeyboardInterrupt

    monkeypatch.setattr("components.predict.beam_job.join_outputs", fail)
    with pytest.raises(KeyboardInterrupt):
        predict_by_beam(Path(export), [__file__], output, 1, None, options)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]
