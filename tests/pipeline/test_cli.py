import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from toys import write_config

from pipeline.cli import main, parse_arguments

ROOT = Path(__file__).parents[2]


def topgraft(*arguments, cwd=ROOT, **environment):
    """Run the installed command in a process of its own."""
    command = [str(Path(sys.executable).parent / "topgraft"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env={**os.environ, **environment})


PRINT_MODULES = """
import sys
from pipeline.cli import main, parse_arguments
try:
    status = main(sys.argv[1:])
except SystemExit as stop:
    status = stop.code
print("MODULES", status, *sys.modules)
"""


def modules_of(*arguments):
    """Run a command; return its status, its output, and the modules that it loaded."""
    command = [sys.executable, "-c", PRINT_MODULES, *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    output, _, rest = result.stdout.partition("MODULES ")
    assert rest, result.stderr
    status, *modules = rest.split()
    return int(status), output, set(modules)


def test_help_loads_nothing_heavy():
    status, _, modules = modules_of("--help")
    assert status == 0
    assert not modules & {"tensorflow", "apache_beam", "pydantic", "rich", "numpy"}


def test_help_names_every_command():
    result = topgraft("--help")
    assert result.returncode == 0
    assert "run" in result.stdout and "predict" in result.stdout


def test_a_run_with_nothing_to_do_loads_neither_tensorflow_nor_beam(toy_run, toy_config, tmp_path):
    status, output, modules = modules_of("run", write_config(tmp_path / "toy.yaml", **toy_config))
    assert status == 0
    assert output.count("as before") == 8
    assert not modules & {"tensorflow", "apache_beam"}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"data": {"path": "nowhere"}}, "no folder 'nowhere'"),
        ({"data": {"path": __file__}}, "is a file, not a folder"),
        ({"backbone": "efficientnet_lite9"}, "no backbone 'efficientnet_lite9'; the nearest are efficientnet_lite"),
        ({"output_dir": f"{__file__}/run"}, "Cannot write to"),
        ({"bakcbone": "x"}, "did you mean 'backbone'"),
    ],
)
def test_a_mistake_is_one_sentence_status_2_and_leaves_nothing(tmp_path, toy_config, capsys, values, words):
    config = write_config(tmp_path / "c.yaml", **{**toy_config, "output_dir": str(tmp_path / "run"), **values})
    assert main(["run", str(config)]) == 2
    errors = capsys.readouterr().err
    assert words in errors and errors.startswith("topgraft: ")
    assert len(errors.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_refused_model_is_status_3_with_the_reason(tmp_path, toy_run, toy_config, capsys):
    shutil.copytree(toy_run.root, tmp_path / "run")
    strict = {**toy_config, "output_dir": str(tmp_path / "run"), "evaluate": {"thresholds": {"accuracy": 1.0}}}
    assert main(["run", str(write_config(tmp_path / "c.yaml", **strict))]) == 3
    output = capsys.readouterr().out
    assert "NOT BLESSED: accuracy is" in output
    assert output.count("as before") == 6  # all but evaluate and report


def interrupt(*arguments):
    raise KeyboardInterrupt


def test_an_interrupt_while_beam_runs_a_step_is_one_sentence_and_status_130(
    tmp_path, toy_run, toy_config, capsys, monkeypatch
):
    shutil.copytree(toy_run.root, tmp_path / "run")
    config = str(write_config(tmp_path / "c.yaml", **{**toy_config, "output_dir": str(tmp_path / "run")}))
    export, images = str(next((tmp_path / "run" / "export").iterdir())), toy_config["data"]["path"]
    monkeypatch.setattr("components.extract.write_shards.ExtractShard._extract", interrupt)
    monkeypatch.setattr("components.predict.beam_job.PredictShard.process", interrupt)
    for words in (
        ["run", config, "--only", "extract"],
        ["run", config, "--only", "extract", "--verbose"],
        ["predict", export, images, "--output", str(tmp_path / "p.csv"), "--beam", "shards=2"],
    ):
        assert main(words) == 130
        error = capsys.readouterr().err
        assert error.splitlines()[-1] == "topgraft: interrupted; the same command continues where it stopped."
        assert "Traceback" not in error or "--verbose" in words
    assert not (tmp_path / "run" / "lock").exists() and not (tmp_path / "p.csv").exists()


def test_overrides_may_stand_behind_options(tmp_path, toy_config, capsys):
    config = write_config(tmp_path / "c.yaml", **toy_config)
    assert main(["run", str(config), "--from", "train", "trian.epochs=2"]) == 2
    assert "did you mean 'train'" in capsys.readouterr().err
    assert main(["run", str(config), "--frm", "train"]) == 2


@pytest.mark.parametrize("option", ["--from", "--only"])
@pytest.mark.parametrize("stage", ["finetune", "reextract"])
def test_stages_of_fine_tuning_are_refused_where_none_is_asked_for(tmp_path, capsys, option, stage):
    config = write_config(tmp_path / "c.yaml", name="x", data={"path": "images"})
    assert main(["run", str(config), option, stage]) == 2
    assert f"Stage '{stage}' is part of fine-tuning only: set train.finetune" in capsys.readouterr().err


def test_the_home_folder_is_expanded_in_every_path_of_the_command_line(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for command in ("run", "plan", "curve"):
        assert parse_arguments([command, "~/c.yaml"]).place == tmp_path / "c.yaml"
    words = ["~/export/1", "~/photos", "~/new/*.jpg", "-", "--output=~/p.csv"]
    options = parse_arguments(["predict", *words])
    assert options.model == tmp_path / "export" / "1"
    assert options.paths == [tmp_path / "photos", tmp_path / "new" / "*.jpg", Path("-")]
    assert options.output == tmp_path / "p.csv"
    assert parse_arguments(["export", "~/run", "--to", "tflite"]).model == tmp_path / "run"
    assert parse_arguments(["serve", "~/export"]).model == tmp_path / "export"
    shown = parse_arguments(["backbones", "show", "VGG19", "--pbtxt=~/g", "--tensorboard=~/t"])
    assert (shown.pbtxt, shown.tensorboard) == (tmp_path / "g", tmp_path / "t")
