import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from toys import encode_noise, write_config

from components.backbones.spec import EMBEDDED, FROZEN, KERAS
from components.curve.page import CurvePoint
from components.export.versions import list_versions
from pipeline.cli import main
from pipeline.terminal import format_classes, print_curve, print_summary


@pytest.fixture(scope="module")
def export(toy_run):
    return str(list_versions(toy_run.exports)[-1])


def answer(capsys, *arguments):
    """Run a command with --json; return its status and the one document on stdout."""
    capsys.readouterr()
    status = main([*map(str, arguments), "--json"])
    return status, json.loads(capsys.readouterr().out)


def test_run_answers_with_its_record_and_the_report(toy_run, toy_config, tmp_path, capsys):
    status, document = answer(capsys, "run", write_config(tmp_path / "c.yaml", **toy_config))
    assert status == 0
    report = document.pop("report")
    assert Path(report) == toy_run.report / "index.html" and Path(report).exists()
    assert document == json.loads(toy_run.record.read_text())
    assert document["blessed"]


def test_a_refused_model_answers_with_status_3(toy_run, toy_config, tmp_path, capsys):
    shutil.copytree(toy_run.root, tmp_path / "run")
    strict = {**toy_config, "output_dir": str(tmp_path / "run"), "evaluate": {"thresholds": {"accuracy": 1.0}}}
    status, document = answer(capsys, "run", write_config(tmp_path / "c.yaml", **strict))
    assert status == 3
    assert not document["blessed"] and "accuracy is" in document["reasons"][0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "nowhere.yaml"], "Cannot read the config"),
        (["curve", "nowhere.yaml"], "Cannot read the config"),
        (["predict", "nowhere", __file__], "'nowhere' does not exist: give the directory"),
        (["classify", __file__, "--backbone", "lite9"], "There is no backbone"),
        (["export", "nowhere", "--to", "tflite"], "'nowhere' does not exist: give the directory"),
    ],
)
def test_a_mistake_answers_with_status_2_and_the_error(capsys, arguments, words):
    status, document = answer(capsys, *arguments)
    assert status == 2
    assert list(document) == ["error"] and words in document["error"]


def test_a_command_line_that_is_none_answers_with_the_error(capsys):
    assert main(["run", "--only", "everything", "--json"]) == 2
    captured = capsys.readouterr()
    assert "everything" in json.loads(captured.out)["error"]
    assert captured.err.startswith("usage: topgraft run")


def test_the_list_of_backbones_is_an_array(capsys):
    status, document = answer(capsys, "backbones", "list")
    assert status == 0
    assert [row["name"] for row in document] == [*EMBEDDED, *FROZEN, *KERAS]
    assert document[0] == {
        "name": "efficientnet_lite0",
        "source": "installed",
        "input": 224,
        "dim": 1984,
        "parameters": 4.65,
        "licence": "Apache-2.0",
        "here": True,
    }


def test_predictions_are_json_lines_or_with_a_file_their_counts(export, tmp_path, capsys):
    images = tmp_path / "images"
    images.mkdir()
    (images / "a.png").write_bytes(encode_noise(1)[0])
    (images / "b.jpg").write_bytes(b"no image")
    output = tmp_path / "out.jsonl"
    status, counts = answer(capsys, "predict", export, images, "--output", output)
    assert (status, counts) == (0, {"predicted": 1, "unreadable": 1, "output": str(output)})
    assert main(["predict", export, str(images), "--json"]) == 0
    captured = capsys.readouterr()
    assert [json.loads(line) for line in captured.out.splitlines()] == [json.loads(output.read_text())]
    assert "b.jpg" in captured.err


def test_a_curve_answers_with_its_points(toy_run, toy_config, tmp_path, capsys):
    shutil.copytree(toy_run.root, tmp_path / "run")
    config = write_config(tmp_path / "c.yaml", **{**toy_config, "output_dir": str(tmp_path / "run")})
    status, document = answer(capsys, "curve", config, "--shots", "5", "--draws", "2")
    assert status == 0
    (point,) = document["points"]
    assert (point["per_class"], point["draws"]) == ("5", 2) and 0 < point["accuracy"] <= 100
    assert Path(document["page"]).exists()


def test_what_writes_past_python_stays_off_the_document():
    program = (
        "import os, sys\n"
        "from pipeline.terminal import json_output\n"
        "with json_output(True) as answer:\n"
        "    os.write(1, b'from below\\n'); print('from Python'); answer({'a': 1})\n"
        "print('after')"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env={**os.environ})
    assert result.stdout == '{"a": 1}\nafter\n'
    assert sorted(result.stderr.splitlines()) == ["from Python", "from below"]


def test_a_reader_that_has_enough_ends_the_command_without_a_traceback():
    program = "from pipeline.cli import run_and_exit; run_and_exit()"
    command = [sys.executable, "-c", program, "backbones", "list", "--json"]
    reader, writer = os.pipe()
    os.close(reader)
    result = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (result.returncode, result.stderr) == (141, "")


def test_quiet_leaves_the_verdict(toy_run, toy_config, tmp_path, capsys):
    assert main(["run", str(write_config(tmp_path / "c.yaml", **toy_config)), "--quiet"]) == 0
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("BLESSED\n", "")


def test_a_summary_names_the_classes_and_the_images_of_each_split(toy_run, toy_config, tmp_path, capsys):
    counts = json.loads(toy_run.record.read_text())["counts"]
    splits = ", ".join(f"{split} {counts[split]}" for split in ("train", "val", "test"))
    assert main(["run", str(write_config(tmp_path / "c.yaml", **toy_config))]) == 0
    output = capsys.readouterr().out
    assert "3 classes: cyan (60), magenta (60), yellow (60)\n" in output
    assert f"180 images: {splits}\n" in output


def test_of_many_classes_the_first_the_smallest_and_the_largest_are_named():
    images = {f"c{number}": 100 + number % 37 for number in range(2000)}
    text = format_classes(images)
    assert text.startswith("2,000 classes: c0 (100), c1 (101), ") and "c9 (109), and 1,990 more: " in text
    assert text.endswith("the fewest images in c0 (100), the most in c36 (136)")
    assert "more" not in format_classes(dict.fromkeys(map(str, range(20)), 1))


def test_names_whose_ends_cannot_be_seen_are_quoted():
    assert (
        format_classes({"cat ": 1, "big dog": 2, "a\u200bb": 3})
        == "3 classes: 'cat ' (1), big dog (2), 'a\\u200bb' (3)"
    )


def test_names_in_a_summary_stay_visible_text(capsys):
    record = {
        "stages": {},
        "classes": {},
        "metrics": {"accuracy": 0.5},
        "verdict": "NOT BLESSED",
        "reasons": ["[bold]\x1b[2J"],
    }
    print_summary({**record, "notes": ["class '\x1b]0;x\x07'"]}, Path("a\x1bb/index.html"), quiet=False)
    output = capsys.readouterr().out
    assert "\x1b" not in output and "\x07" not in output
    assert "NOT BLESSED: [bold]\\x1b[2J" in output
    assert "note: class '\\x1b]0;x\\x07'" in output
    assert "report: a\\x1bb/index.html" in output


def test_names_in_a_curve_stay_visible_text(capsys):
    print_curve([CurvePoint("[red]\x1b[1m", "5", 1, 50.0, 0.0, 50.0, 0.0)], [], Path("c\x1b.html"), quiet=False)
    output = capsys.readouterr().out
    assert "\x1b" not in output and "[red]\\x1b[1m" in output and "curve: c\\x1b.html" in output


def test_an_error_that_quotes_a_path_stays_visible_text(export, tmp_path, capsys):
    assert main(["run", "\x1b[31m\n.yaml"]) == 2
    assert main(["run", "c.yaml", "--\x1b[31m"]) == 2
    (tmp_path / "\x1b[2J.jpg").write_bytes(b"no image")
    (tmp_path / "\x1b[2J.png").write_bytes(encode_noise(1)[0])
    assert main(["predict", export, str(tmp_path)]) == 0
    captured = capsys.readouterr()
    assert "\x1b" not in captured.out + captured.err
    assert "'\\x1b[31m\\n.yaml'" in captured.err
    assert "\\x1b[2J.jpg: " in captured.err and "\\x1b[2J.png" in captured.out
